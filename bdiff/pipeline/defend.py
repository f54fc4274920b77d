"""The defense stage: every role of a defense is evaluated in one way, and its class says which role that is."""

from functools import singledispatch

from bdiff.defense.base import Defense, Detection, InputCheck, Removal, SamplingDefense, Shield
from bdiff.pipeline.check_inputs import checked
from bdiff.pipeline.detect import detected
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.prepare import plain, without
from bdiff.pipeline.remove import remeasured, removed, removed_stage
from bdiff.pipeline.result import StageResult
from bdiff.pipeline.sample import draw_samples
from bdiff.pipeline.shield import shielded
from bdiff.pipeline.start import InitialWeights
from bdiff.pipeline.suspect import method
from bdiff.pipeline.train import clean_model
from bdiff.store.artifacts import Stage


def defend(run: Experiment, model: Stage, start: InitialWeights) -> StageResult:
    """Return what the request's defense says of the model of `model`, trained from `start`, or makes of it."""
    return evaluated(method(run.config.defense), run, model, start)


@singledispatch
def evaluated(defense: Defense, run: Experiment, model: Stage, start: InitialWeights) -> StageResult:
    """Return what comes of a defense, by its role."""
    raise TypeError(f"{type(defense).__name__} has none of the roles of bdiff.defense.base")


@evaluated.register
def _(defense: Detection, run: Experiment, model: Stage, start: InitialWeights) -> StageResult:
    return detected(run, model, defense)


@evaluated.register
def _(defense: Removal, run: Experiment, model: Stage, start: InitialWeights) -> StageResult:
    return removed(run, model, defense, without(run.config.defense, "removal"))


@evaluated.register
def _(defense: InputCheck, run: Experiment, model: Stage, start: InitialWeights) -> StageResult:
    return checked(run, model, defense)


@evaluated.register
def _(defense: SamplingDefense, run: Experiment, model: Stage, start: InitialWeights) -> StageResult:
    return remeasured(run, draw_samples(run, model, "guarded_sample", guard=defense), "guarded")


@evaluated.register
def _(defense: Shield, run: Experiment, model: Stage, start: InitialWeights) -> StageResult:
    return shielded(run, defense, *shield_rows(run, model, start))


def shield_rows(run: Experiment, model: Stage, start: InitialWeights) -> tuple[dict[str, list[Stage]], str]:
    """Return the rows of a shield's table, see `bdiff.pipeline.names.ROWS`, and which model the clean one is in words.

    Each row has the models that denoise for it.
    """
    config = run.config.defense
    clean, words = (model, "the suspect") if run.attack.poison_rate == 0 else clean_model(run, start)
    found: dict[str, list[Stage]] = {"none": [], "clean": [clean], "suspect": [model]}
    if config.ensemble:
        found["ensemble"] = [model, clean]
    if config.repair:
        found["repaired"] = [removed_stage(run, model, method(config.removal), plain(config.removal))]
    return found, words
