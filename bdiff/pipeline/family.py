"""The samplers' families, ancestral and ODE: a backdoor opens under one of them, and a verdict's samples need that one.

A detection whose inverted trigger belongs to a family has its samples drawn by the run's sampler where that is of the
family, and otherwise by the family's usual one: a trigger that is found would show nothing under the other.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.config.keys import plain
from bdiff.config.options import own_settings

#: the usual sampler of each family, an option of conf/sampler
USUAL = {"ancestral": "ddpm", "ode": "ddim"}


def eta_of(sampler: DictConfig) -> float:
    """Return the eta of a node of conf/sampler: DDIM's, 0 of all other ODE samplers, and 1 of ancestral ones."""
    return float(sampler.step.get("eta") or 0) if sampler.ode else 1.0


def family_of(sampler: DictConfig) -> str | None:
    """Return the family of a node of conf/sampler: DDIM with eta = 1 is ancestral, and between 0 and 1 of neither."""
    return {0.0: "ode", 1.0: "ancestral"}.get(eta_of(sampler))


def family_asked(defense: DictConfig) -> str | None:
    """Return the family that a node of conf/defense names by `family` or `law`; None where it names no one family."""
    return next((one for one in (defense.get("family"), defense.get("law")) if one in USUAL), None)


def of_family(
    family: str | None,  # of the sampler that is needed; None: any
    sampler: DictConfig,  # conf/sampler
    sample: DictConfig,  # conf/sample
    schedule: dict[str, Any],  # conf/schedule
) -> tuple[DictConfig, DictConfig]:
    """Return the sampler and its conf/sample: these, or the usual ones of another family with its usual steps.

    DDIM's are the next smaller number that divides the schedule's, so that all are of one length.
    """
    if family in (None, family_of(sampler)):
        return sampler, sample
    around = {"sampler": own_settings("sampler", USUAL[family]), "sample": sample, "schedule": schedule}
    config = OmegaConf.create(plain(OmegaConf.create(around)))
    length = schedule["num_train_timesteps"]
    steps = next(n for n in range(min(config.sampler.steps, length), 0, -1) if length % n == 0)
    config.sample.steps = steps
    return config.sampler, config.sample
