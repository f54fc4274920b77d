"""No tracker: only the run's own folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class NoTracker:
    """The interface of trackers; this one does nothing."""

    def prepare(self) -> None:
        """Start slow initialization in the background."""

    def start(
        self,
        name: str,
        config: dict[str, Any],
        folder: Path,  # of the run, where files may be put
        group: str | None = None,  # of runs that belong together, e.g. a sweep
        attempts: Path | None = None,  # a file that all attempts at this run share until one of them succeeds
    ) -> None:
        """Open a run."""

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Record numbers, at a training step if there is one."""

    def picture(self, name: str, path: Path) -> None:
        """Record an image file."""

    def samples(self, kinds: "Mapping[str, Tensor]") -> None:
        """Record images of each kind, uint8 (B,C,H,W), of which the first belong together, and so on."""

    def conclude(self, metrics: dict[str, float]) -> None:
        """Record the run's final numbers."""

    def finish(self, failed: bool) -> None:
        """Close the run."""
