"""No tracker: only the run's own folder."""

from pathlib import Path
from typing import Any


class NoTracker:
    """The interface of trackers; this one does nothing."""

    def prepare(self) -> None:
        """Start slow initialization in the background."""

    def start(self, name: str, config: dict[str, Any], folder: Path) -> None:
        """Open a run called `name`, whose files may be put in `folder`."""

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Record numbers, at a training step if there is one."""

    def picture(self, name: str, path: Path) -> None:
        """Record an image file."""

    def finish(self, failed: bool) -> None:
        """Close the run."""
