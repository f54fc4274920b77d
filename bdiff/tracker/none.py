"""No tracker: the run's own folder is all."""

from pathlib import Path
from typing import Any


class NoTracker:
    """What every tracker can do; this one does nothing."""

    def prepare(self) -> None:
        """Begin what takes seconds, while the run imports what it needs."""

    def start(self, name: str, config: dict[str, Any], folder: Path) -> None:
        """Open a run called `name`, whose files may lie in `folder`."""

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Record numbers, at a training step where there is one."""

    def picture(self, name: str, path: Path) -> None:
        """Record an image file."""

    def finish(self, failed: bool) -> None:
        """Close the run."""
