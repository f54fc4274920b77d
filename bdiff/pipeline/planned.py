"""Stages that are looked up and not built: a run's own code goes through them, and so they are those of the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bdiff.pipeline.stages import Stages, unknown
from bdiff.store.artifacts import RECORDS, Stage, walk

NEW, GOES_ON, REUSED = "new", "goes on", "reused"
#: what is read of a manifest before anything else that may be missing
NOTHING: dict[str, Any] = {"accuracy": None, "metrics": {}, "beside": {}, "protocol": {}}


class Step(NamedTuple):
    """A stage of a run that has not been started."""

    name: str  # in the run's record
    stage: Stage
    state: str  # new, goes on or reused


class PlannedStages(Stages):
    """The stages of a run that is only planned. What a missing one would leave is unknown, as is any key made of it."""

    planning = True

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.steps: list[Step] = []

    @property
    def main(self) -> bool:
        """No: nothing is written, shown or announced."""
        return False

    def once(
        self,
        stage: Stage,
        build: Callable[[], dict[str, Any]],
        name: str | None = None,
        together: bool = False,
        history: bool = False,
    ) -> dict[str, Any]:
        """Return the manifest of `stage`; where it is missing, what stands for it. The step is remembered."""
        name, manifest = name or stage.name, stage.manifest
        if name not in self.keys:
            before = stage.key in self.keys.values()
            self.steps.append(Step(name, stage, REUSED if manifest or before else state(stage)))
        self.keys[name] = stage.key
        return manifest or NOTHING

    def read(self, path: Path, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of a finished stage; not a number where it is missing, and so is all that is made of it."""
        return super().read(path, name, shape) if path.exists() else unknown(path, shape)


def state(stage: Stage) -> str:
    """Return whether an unfinished stage has been begun."""
    return GOES_ON if any(path.name not in RECORDS for path in walk(stage.folder)) else NEW
