"""The defense stage: every role of a defense is evaluated in one way, and its class says which role that is."""

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.defense.base import Defense, Detection, InputCheck, Removal, SamplingDefense, Shield
from bdiff.model.checkpoint import weights_digest
from bdiff.pipeline.check_inputs import checked
from bdiff.pipeline.detect import Drawings, Truth, detected
from bdiff.pipeline.eval_set import EvalSet, eval_set
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.leak import Clean
from bdiff.pipeline.measure import Measuring, measure
from bdiff.pipeline.prepare import without
from bdiff.pipeline.remove import Found, Known, remove
from bdiff.pipeline.result import StageResult, first_images
from bdiff.pipeline.sample import draw_samples
from bdiff.pipeline.shield import shielded
from bdiff.pipeline.shield_table import ShieldTable
from bdiff.pipeline.suspect import method
from bdiff.pipeline.train import InitialWeights, clean_model
from bdiff.store.artifacts import Stage


@dataclass(frozen=True)
class Case:
    """A model that a defense is evaluated on, and its run, of which the evaluation of each role gets what it needs."""

    run: Experiment
    model: Stage
    start: InitialWeights  # of the model's training
    measuring: Measuring
    samples: Stage  # the run's, of the model
    clean: Clean | None  # what the suspect's leak is held against, if that is measured


@singledispatch
def evaluated(defense: Defense, case: Case) -> StageResult:
    """Return what comes of a defense, by its role: what it says of the model, or what it makes of it, measured."""
    raise TypeError(f"{type(defense).__name__} has none of the roles of bdiff.defense.base")


@evaluated.register
def _(defense: Detection, case: Case) -> StageResult:
    run, config = case.run, case.run.config.defense
    truth = Truth(run.attack, run.pictures.trigger, case.measuring)
    drawn = Drawings(run.sampling, case.samples)
    result, found = detected(run.stages, case.model, defense, config, drawn, truth, run.threshold)
    return result | removed(case, "defense.removal", found) if config.repair else result


@evaluated.register
def _(defense: Removal, case: Case) -> StageResult:
    return removed(case, "defense")


@evaluated.register
def _(defense: InputCheck, case: Case) -> StageResult:
    run, config = case.run, case.run.config
    return checked(
        run.stages, case.model, defense, config.defense, run.diffusion, run.attack, run.pictures, config.seed
    )


@evaluated.register
def _(defense: SamplingDefense, case: Case) -> StageResult:
    run = case.run
    settings = without(run.config.defense, "removal")
    changed = replace(run.sampling, scheduler=defense.scheduler(run.sampling.scheduler), defense=settings)
    return remeasured(case, draw_samples(run.stages, changed, case.model, run.kinds, "guarded_sample"), "guarded")


@evaluated.register
def _(defense: Shield, case: Case) -> StageResult:
    run, config = case.run, case.run.config
    rows, clean = shield_rows(case)
    on = eval_set(run.stages, run.data, config.classifier, config.defense, run.attack)
    table = ShieldTable(config.name, config.defense, run.diffusion, on, rows)
    result = shielded(defense, run.stages, table, run.attack, run.images)
    facts = shield_protocol(on, config.defense) | {"marks": run.marks, "clean model": clean}
    return replace(result, protocol={name: facts | own for name, own in result.protocol.items()})


def shield_protocol(on: EvalSet, config: DictConfig) -> dict[str, Any]:
    """Return what the protocol says of any shield, by conf/defense, beside the shield's own settings."""
    about = {"images": len(on.labels), "of": on.source, "seed": config.seed, "precision": config.precision}
    return about | {"classifier": on.facts}


def removed(case: Case, place: str, found: Found | None = None) -> StageResult:
    """Return what `measure` says of the model without its backdoor, see `removed_stage`."""
    stage = removed_stage(case, place, found)
    samples = draw_samples(case.run.stages, case.run.sampling, stage, case.run.kinds, "repaired_sample")
    return remeasured(case, samples, "repaired")


def removed_stage(case: Case, place: str, found: Found | None = None) -> Stage:
    """Return the model of a case without its backdoor, by the removal at a place in the request; see `remove`."""
    run, node = case.run, OmegaConf.select(case.run.config, place)
    removal, settings = method(node), without(node, "removal")
    known = Known(found, clean_weights(case, settings["clean"]) if removal.needs_clean else None, place)
    return remove(run.stages, case.model, removal, settings, run.diffusion, run.images, run.config.seed, known)


def clean_weights(case: Case, given: str | None) -> InitialWeights:
    """Return the clean model that a removal gets: the one in a `given` folder, or what training started from."""
    if given is None:
        return case.start
    return InitialWeights(given, weights_digest(given), case.start.prediction)


def remeasured(case: Case, samples: Stage, who: str) -> StageResult:
    """Return what `measure` says of the samples of `who`; its protocol is the suspect's.

    Of a class as the target their leak too is what is above that of the same clean model, or of the same images.
    """
    clean, images = (case.clean, case.run.images) if case.measuring.goal else (None, None)
    measured = measure(case.run.stages, samples, case.measuring, clean, images, who)["metrics"]
    if case.run.stages.planning:
        return StageResult()
    pictures = {f"{who} {kind}": first_images(samples, kind) for kind in case.run.kinds}
    return StageResult(measured, samples=pictures)


def shield_rows(case: Case) -> tuple[dict[str, list[Stage]], str]:
    """Return the rows of a shield's table, see `bdiff.pipeline.names.ROWS`, and which model the clean one is in words.

    Each row has the models that denoise for it.
    """
    run, model, config = case.run, case.model, case.run.config.defense
    clean, words = (model, "the suspect")
    if run.attack.poison_rate > 0:
        clean, words = clean_model(run.stages, run.setup, run.attack, run.train, case.start)
    found: dict[str, list[Stage]] = {"none": [], "clean": [clean], "suspect": [model]}
    if config.ensemble:
        found["ensemble"] = [model, clean]
    if config.repair:
        found["repaired"] = [removed_stage(case, "defense.removal")]
    return found, words
