"""The threshold of a run's detection: the given one, or the calibrated one where its calibration holds."""

from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from bdiff.config.instantiate import defaults
from bdiff.config.keys import plain
from bdiff.defense.settings import Calibration
from bdiff.diffusion.steps import class_of
from bdiff.pipeline.family import family_asked, of_family


class Threshold(NamedTuple):
    """What is known of a detection's threshold beside its value: nothing if it was given."""

    unflagged: str | None = None  # why it flags no model here
    rate: float | None = None  # false-positive rate of a calibrated one, at most, on models like its calibration's
    basis: str | None = None  # the same in words


def resolve_threshold(config: DictConfig, data: str) -> Threshold:
    """Set a detection's threshold that is auto to the calibrated one, or to null where that holds for others alone.

    A calibration is compared with the run in all that it names: what is null there may be anything.
    """
    if OmegaConf.select(config, "defense.threshold") != "auto":
        return Threshold()
    calibration = Calibration(**plain(config.defense.calibration))
    wanted, here = conditions(calibration, config), facts(config, data)
    other = [f"{name}={said(name, value)} (here {said(name, here[name])})"
             for name, value in wanted.items() if here[name] != value]  # fmt: skip
    if calibration.sizes and not calibration.sizes[0] <= here["size"] <= calibration.sizes[1]:
        other.append(f"size={calibration.sizes[0]} to {calibration.sizes[1]} (here {here['size']})")
    config.defense.threshold = None if other else calibration.threshold
    if other:
        why = f"the threshold {calibration.threshold} is calibrated on {', '.join(other)}: set defense.threshold"
        return Threshold(unflagged=why)
    return Threshold(rate=calibration.false_positive_rate, basis=basis(calibration))


def conditions(calibration: Calibration, config: DictConfig) -> dict[str, Any]:
    """Return what has to be so for a calibration to hold: facts of models and samples, settings of the detection."""
    samples = {name: vars(calibration)[name] for name in ("data", "size", "channels", "sampler", "sampler_steps")}
    schedule = {name: vars(calibration)[name] for name in vars(calibration) if name in config.schedule}
    settings = defaults(config.defense) | {"flag_by": calibration.score} | calibration.settings
    own = {f"defense.{name}": value for name, value in settings.items()}
    return {name: value for name, value in (samples | schedule).items() if value is not None} | own


def facts(config: DictConfig, data: str) -> dict[str, Any]:
    """Return those facts of a run, whose data are called `data`."""
    schedule = plain(config.schedule)
    sampler, sample = of_family(family_asked(config.defense), config.sampler, config.sample, schedule)
    settings = {"flag_by": "score"} | defaults(config.defense) | plain(config.defense)
    own = {f"defense.{name}": value for name, value in settings.items()}
    drawn = {"sampler": class_of(plain(sampler.scheduler)), "sampler_steps": sample.steps}
    return plain(config.data) | schedule | {"data": data} | drawn | own


def said(name: str, value: Any) -> Any:
    """Return the value of a fact as messages have it: of a path of data its last part, as protocols are published."""
    return Path(value).name if name == "data" else value


def basis(calibration: Calibration) -> str | None:
    """Return the false-positive rate of a calibration and the models that it is from, in words."""
    if calibration.false_positive_rate is None:
        return None
    of = f" of {', '.join(calibration.data_sets)}" if calibration.data_sets else ""
    models = f", from {calibration.models} clean models{of}" if calibration.models else ""
    return f"false-positive rate at most {100 * calibration.false_positive_rate:g} %{models}"
