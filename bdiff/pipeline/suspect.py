"""What the stages make of conf/defense: the method, and what it may see of a model."""

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

from bdiff.config.instantiate import around, defaults, made_of
from bdiff.config.keys import plain
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.schedule import Schedule
from bdiff.model import checkpoint
from bdiff.store.artifacts import Stage


@dataclass(frozen=True)
class Diffusion:
    """The diffusion that all models of a run undo: a noise schedule over images of a shape, on a device."""

    schedule: Schedule  # with its tables on the CPU
    key: dict[str, Any]  # conf/schedule, for keys
    shape: tuple[int, ...]  # (C,H,W)
    device: torch.device

    @property
    def schedule_here(self) -> Schedule:
        """The schedule with its tables on the device."""
        return self.schedule.to(self.device)


def suspect_of(model: Stage, diffusion: Diffusion, precision: str = "fp32", recompute: bool | int = False) -> Suspect:
    """Return what a defense may see of the model of `model`; with `recompute`, gradients take less memory."""
    folder = model.folder / "model"
    return checkpoint.suspect(folder, diffusion.schedule, diffusion.shape, diffusion.device, precision, recompute)


def method(config: DictConfig) -> Any:
    """Return the defense of a node of conf/defense, made of the keys that are its own."""
    return made_of(config, "removal")  # which comes after it


def own(config: DictConfig, *but: str) -> dict[str, Any]:
    """Return the keys of a node of conf/defense that are the method's own, for keys; without some."""
    return {name: value for name, value in settled(config).items() if name not in {"removal", *around(config), *but}}


def settled(config: DictConfig) -> dict[str, Any]:
    """Return a node of conf/defense, for keys: without later settings that have the value of earlier versions."""
    new = defaults(config)
    return {name: value for name, value in plain(config).items() if name not in new or value != new[name]}
