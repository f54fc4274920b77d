"""What the stages make of conf/defense: the method, and what it may see of a model."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.config.instantiate import make
from bdiff.defense.base import Suspect
from bdiff.model import checkpoint
from bdiff.pipeline.context import Experiment
from bdiff.store.artifacts import Stage

#: keys of conf/defense that are the stages', not the method's: what changes the numbers that a model answers with,
NUMERICS = ("precision",)
#: and what is done around the method, which changes nothing of what an audit inverts
AROUND = (
    *("checkpoint", "repair", "removal", "images", "train", "calibration"),
    *("seed", "ensemble", "adversary", "adaptive", "strip", "at_once"),
)
OURS = (*NUMERICS, *AROUND)


def suspect_of(run: Experiment, model: Stage, precision: str = "fp32", recompute: bool = False) -> Suspect:
    """Return what a defense may see of the model of `model`."""
    unet = checkpoint.load(model.folder / "model")
    schedule = make(run.config.schedule).to(run.device)
    return Suspect(unet, schedule, run.images.shape, run.device, precision, recompute)


def method(config: DictConfig) -> Any:
    """Return the defense of a node of conf/defense, made without the keys that are the stages'."""
    return make(OmegaConf.masked_copy(config, [str(key) for key in config if key not in OURS]))
