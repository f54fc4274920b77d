"""Weights & Biases, offline unless the user is logged in. Its failures warn and never end a run."""

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from bdiff.config.rules import one_of
from bdiff.tracker.none import NoTracker

log = logging.getLogger(__name__)


def forgiving(method: Callable[..., None]) -> Callable[..., None]:
    """Turn whatever wandb raises into a warning, and then leave wandb alone for the rest of the run."""

    @functools.wraps(method)
    def call(self: "WandbTracker", *args: Any, **options: Any) -> None:
        if self.broken:
            return
        try:
            method(self, *args, **options)
        except Exception as error:  # any failure of a tracker is only worth a warning
            log.warning("wandb is off for the rest of this run (%s: %s)", type(error).__name__, error)
            self.broken = True

    return call


class WandbTracker(NoTracker):
    """A wandb run.

    Args:
        project, entity, group, tags: as in `wandb.init`.
        mode: auto (online if the user is logged in, else offline), online, offline or disabled.
    """

    def __init__(
        self,
        project: Annotated[str, "of wandb"],
        entity: Annotated[str | None, "user or team; null: the user's own"],
        group: Annotated[str | None, "that the run belongs to"],
        mode: Annotated[str, one_of("auto", "online", "offline", "disabled"), "auto: online if the user is logged in"],
        tags: Annotated[list[str], "of the run"],
    ):
        self.project, self.entity, self.group = project, entity, group
        self.mode, self.tags = mode, list(tags)
        self.broken = False
        self.run: Any = None

    @forgiving
    def start(self, name: str, config: dict[str, Any], folder: Path) -> None:
        """Open the run; its files lie in `folder`/wandb."""
        import wandb

        mode: Any = self.mode
        if mode == "auto":
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
            mode = os.environ.get("WANDB_MODE", mode)
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            tags=self.tags,
            name=name,
            job_type="run",
            config=config,
            dir=folder,
            mode=mode,
            settings=wandb.Settings(silent=True, init_timeout=60),
        )

    @forgiving
    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Record numbers; training steps are kept as `train/step`, since stages may be replayed."""
        self.run.log(values if step is None else {**values, "train/step": step})

    @forgiving
    def picture(self, name: str, path: Path) -> None:
        """Record an image file."""
        import wandb

        self.run.log({name: wandb.Image(str(path))})

    @forgiving
    def finish(self, failed: bool) -> None:
        """Close the run; an exit code of 1 marks a failed one."""
        if self.run is not None:
            self.run.finish(exit_code=int(failed))
