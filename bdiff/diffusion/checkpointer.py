"""Checkpoints of a training, from which it resumes after a kill."""

import logging
import pickle
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bdiff.common.device import Late
from bdiff.common.errors import RunError
from bdiff.common.pickles import called, first_line, refusal
from bdiff.diffusion.average import Average
from bdiff.store import artifacts
from bdiff.store.integrity import fault

log = logging.getLogger(__name__)


class Companion(Protocol):
    """State that changes along with a model in training, such as a trigger that is learned with it."""

    def update(self, model: Any, draw: torch.Generator) -> None:
        """Change after an optimizer step; `draw` is a function of seed and step."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors that have changed, by name; empty for none."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take `state_dict` back."""


class Checkpointer:
    """Checkpoints of all that a training needs to resume, as `<folder>/state/<step>.pt`, written by a thread."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: Average | None,
        keep: int,
        companion: Companion | None = None,
    ):
        self.folder, self.keep = folder / "state", keep
        self.model, self.optimizer, self.ema, self.companion = model, optimizer, ema, companion
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None
        self.newest = 0  # the step of the newest complete checkpoint

    def paths(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("*.pt") if path.stem.isdecimal())

    @property
    def idle(self) -> bool:
        """Whether no checkpoint is being written."""
        return self.writing is None or self.writing.done()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written; raises its error if that failed."""
        if self.writing:
            self.writing.result()

    def close(self) -> None:
        """Wait for the last checkpoint, and end the thread."""
        self.writer.shutdown()
        self.wait()

    def save(self, step: int) -> None:
        """Take a snapshot after `step` steps, which the thread writes while training continues."""
        self.wait()
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
        if self.ema:
            parts["ema"] = self.ema.state_dict()
        if self.companion and (own := self.companion.state_dict()):
            parts["companion"] = own
        self.writing = self.writer.submit(self.write, step, snapshot(parts))

    def write(self, step: int, parts: Late) -> None:
        """Write a snapshot once it is on the CPU, and remove damaged checkpoints and those beyond `keep`."""
        with artifacts.atomic(self.folder / f"{step:08d}.pt") as scratch:
            torch.save(parts.read(), scratch)
        self.newest = step
        later = [path for path in self.paths() if int(path.stem) > step]  # which `load` could not use
        kept = [path for path in self.paths() if int(path.stem) <= step]
        for old in [*later, *kept[: -self.keep]]:
            old.unlink()

    def load(self, device: torch.device) -> int:
        """Load the newest intact checkpoint and return its step; 0 if there is none.

        Raises RunError for one that would run code.
        """
        for path in reversed(self.paths()):
            parts = self.read(path, device)
            if isinstance(parts, str):
                log.warning("%s is ignored: %s", path, parts)
                continue
            self.model.load_state_dict(parts["model"])
            self.optimizer.load_state_dict(parts["optimizer"])
            if self.ema:
                self.ema.load_state_dict(parts["ema"])
            if self.companion and "companion" in parts:
                self.companion.load_state_dict(parts["companion"])
            log.info("resuming from step %d (%s)", parts["step"], self.folder)
            self.newest = parts["step"]
            return self.newest
        return 0

    def read(self, path: Path, device: torch.device) -> dict[str, Any] | str:
        """Return the content of the checkpoint `path`, or why training cannot resume from it."""
        if zipfile.is_zipfile(path) and (why := fault(path, deep=True)):
            return f"it is damaged ({why})"
        try:
            parts = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds
            # Our checkpoints are zips, even damaged ones: a bare pickle is not ours.
            if called(error) or (refusal(error) and path.read_bytes().startswith(pickle.PROTO)):
                raise RunError(f"the checkpoint {path} {refusal(error)}, or remove it") from error
            return f"it is damaged ({first_line(error)})"
        here = {"model", "optimizer", "step"} | ({"ema"} if self.ema else set())
        here |= {"companion"} if self.companion and self.companion.state_dict() else set()
        if not isinstance(parts, dict) or {*parts} != here or shapes(parts["model"]) != shapes(self.model.state_dict()):
            return "it belongs to another training"
        return parts


def shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each of a model's weights."""
    return {name: weight.shape for name, weight in weights.items()}


def snapshot(parts: dict[str, Any]) -> Late:
    """Return a copy of nested tensors as they are now, safe from later changes."""
    return Late(tree_map_only(Tensor, lambda x: x.detach().clone() if x.device.type == "cpu" else x, parts))
