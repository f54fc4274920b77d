"""An audit: a checkpoint from elsewhere, judged by a detection. Nobody knows an attack, and no data are needed.

Its stages are a few of a run's: what is left of the weights once they have been read, samples, a trigger inverted from
the model, and samples from that. So a killed audit goes on, and another one reuses what is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from bdiff.common.device import free_memory
from bdiff.common.errors import RequestError
from bdiff.config.instantiate import make
from bdiff.config.keys import plain
from bdiff.data.base import Images, to_float, to_uint8
from bdiff.defense.base import Detection
from bdiff.diffusion.denoiser import Denoiser
from bdiff.metric.target import asr_threshold, near
from bdiff.model import checkpoint
from bdiff.model.checkpoint import weights_digest
from bdiff.model.classes import of_class
from bdiff.model.facts import Facts
from bdiff.pipeline import prepare
from bdiff.pipeline.detect import Drawings, detected, sampling_of
from bdiff.pipeline.estimate import FP32, Row, estimate, network, scratch_of, size, total
from bdiff.pipeline.experiment import Subject, opened
from bdiff.pipeline.family import family_of
from bdiff.pipeline.planned import PlannedStages
from bdiff.pipeline.remove import Found, Known, remove
from bdiff.pipeline.result import Figure, Picture, Sheet, StageResult, first_images
from bdiff.pipeline.sample import Sampling, clean, draw_samples, shifted
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import Diffusion, method, own
from bdiff.pipeline.threshold import Threshold, resolve_threshold
from bdiff.store.artifacts import Stage
from bdiff.tracker.none import NoTracker

FRACTION = 0.6  # of the free memory that an audit may take
SHOWN = 16  # samples of each kind, at least
LEAST = 10  # gradient steps that a budget cuts an inversion down to


@dataclass(frozen=True)
class Audited:
    """What one method found."""

    model: Stage
    result: StageResult
    found: Found
    threshold: Threshold


def subject(config: DictConfig, facts: Facts, kind: type[Stages] = Stages) -> Subject:
    """Return how the model is drawn from, on this device and within its memory; `config` is completed."""
    config.model.unet = facts.settings
    stages = opened(config, NoTracker(), kind)
    config.sample.count = max(SHOWN, examiner(config).reads)
    config.sample.batch_size = min(config.sample.batch_size, config.sample.count)
    schedule = make(config.schedule)
    scheduler = prepare.sampler(config.sampler, schedule, config.sample.steps)
    diffusion = Diffusion(schedule, plain(config.schedule), facts.shape, stages.device)
    sampling = Sampling(diffusion, scheduler, config.sampler, config.sample, config.seed)
    made = Subject(config, stages, diffusion, sampling)
    fit_memory(made)
    return made


def examiner(config: DictConfig) -> Detection:
    """Return the detection of conf/defense. RequestError if it is another defense."""
    made = method(config.defense)
    if not isinstance(made, Detection):
        raise RequestError(f"{type(made).__name__} is not a detection, which an audit needs: see docs/defenses.md")
    return made


def fit_memory(made: Subject) -> None:
    """Let the inversion keep fewer activations, and batches of samples be smaller, where memory is short."""
    config, of, device = made.config, network(made), made.stages.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    room = FRACTION * free - FP32 * size(of)[0]
    detection, defense = examiner(config), config.defense
    if detection.work.gradients:
        kept = scratch_of(of, defense.precision, True)
        if kept.of(detection.work.batch * detection.alive) > room:
            defense.checkpoint = max(1, int((room - kept.once) / kept.image))
    forward = scratch_of(of, config.sample.precision, False)
    most = max(1, int((room - forward.once) / forward.image))
    if most < config.sample.batch_size:  # a power of 2, so that the samples' key does not vary with every byte
        config.sample.batch_size = 2 ** (most.bit_length() - 1)


def plan(config: DictConfig, facts: Facts, repairs: bool = False) -> list[Row]:
    """Return the stages of an audit, and of a repair, that have not been started, with their seconds and bytes."""
    made = subject(config, facts, PlannedStages)
    found = audit(made, facts)
    if repairs:
        repaired(made, found)
    stages = made.stages
    assert isinstance(stages, PlannedStages)
    return [estimate(made, step) for step in stages.steps]


def within(config: DictConfig, facts: Facts, budget: float, repairs: bool = False) -> DictConfig:
    """Return the config with as many gradient steps as an audit has time for in `budget` seconds.

    Raises RequestError where it has none.
    """

    def seconds(of: DictConfig) -> float:
        return total(plan(of.copy(), facts, repairs)).seconds

    whole, steps = seconds(config), config.defense.get("steps") or LEAST
    if whole <= budget:
        return config
    fewest = min(1.0, LEAST / steps)
    needs = seconds(shorter(config, fewest)) if fewest < 1 else whole
    if needs > budget:
        needs = min(needs, whole)  # what is there already takes no time, but with other steps it is not there
        raise RequestError(
            f"--budget {budget / 60:g} is too small: this model takes about {needs / 60:.1f} minutes here"
        )
    return shorter(config, fewest + (1 - fewest) * (budget - needs) / (whole - needs))


def steps_of(config: DictConfig) -> dict[str, int]:
    """Return the detection's numbers of steps that a budget shortens."""
    return {name: config.defense[name] for name in examiner(config).shortened}


def with_steps(config: DictConfig, steps: Mapping[str, int]) -> DictConfig:
    """Return the config with these numbers of steps."""
    made = config.copy()
    made.defense.update(steps)
    return made


def shorter(config: DictConfig, fraction: float) -> DictConfig:
    """Return the config with a fraction, above 0, of each of the detection's numbers of steps, but at least one."""
    each = steps_of(config).items()
    return with_steps(config, {name: min(steps, max(1, int(fraction * steps + 1e-9))) for name, steps in each})


def taken(made: Subject, facts: Facts) -> Stage:
    """Return the model as a stage: its weights, read as tensors only, in a folder of diffusers' own layout."""
    stage = made.stages.stage(
        "suspect",
        weights=weights_digest(str(facts.folder)),
        shape=list(facts.shape),
        schedule=made.diffusion.key,
        prediction=facts.prediction,
        **({} if facts.label is None else {"class": facts.label}),
    )

    def build() -> dict[str, Any]:
        net, strange = checkpoint.opened(facts.folder)
        if facts.label is not None:
            net = of_class(net, facts.label)
        if net.config["sample_size"] != facts.shape[1]:  # a pair, or null
            net.register_to_config(sample_size=facts.shape[1])
        denoiser = Denoiser(net, made.diffusion.schedule, facts.shape, prediction=facts.prediction)
        checkpoint.save(stage.folder / "model", denoiser, {"from": facts.name, "key": stage.key})
        return {"weights": sum(one.numel() for one in net.parameters()), "strange": strange}

    made.stages.once(stage, build)
    return stage


def audit(made: Subject, facts: Facts) -> Audited:
    """Judge a model by the detection of its config."""
    config, stages = made.config, made.stages
    threshold = resolve_threshold(config, "unknown")
    model, detection = taken(made, facts), examiner(config)
    drawings = Drawings(made.sampling)
    result, found = detected(stages, model, detection, config.defense, drawings, None, threshold)
    return Audited(model, result, found, threshold)


def called_up(audited: Audited, images: Tensor, config: DictConfig) -> float:
    """Return the fraction of images (B,C,H,W), uint8, that show what the inverted trigger calls up.

    That is the median of what the model draws from it; they are as near to it as to a target by the ASR.
    """
    picture = to_float(audited.result.samples["inverted"]).median(0).values
    hits = near(picture, asr_threshold(config.metric.asr_threshold, picture.shape[1]))
    return hits(images).float().mean().item()


def pictures(audited: Audited, after: StageResult) -> dict[str, Figure]:
    """Return what there is to see of a model, and `after` its repair, by name."""
    sheets = {name: Sheet(images) for name, images in (audited.result | after).samples.items()}
    return {"trigger": Picture(to_uint8(audited.found.inversion.trigger)), **sheets}


def findings(audited: Audited, config: DictConfig) -> dict[str, Any]:
    """Return what audit.json says of one method: its scores and verdict, its settings, and what it cost."""
    metrics = {name.removeprefix("audit/"): value for name, value in audited.result.metrics.items()}
    metrics["called_up"] = called_up(audited, audited.result.samples["inverted"], config)
    flag_by = config.defense.get("flag_by", "score")
    flagged = bool(metrics.pop("flagged")) if "flagged" in metrics else None
    return {
        "flagged": flagged,  # null: no threshold holds for such a model
        "flag_by": flag_by,
        "value": metrics[flag_by],
        "threshold": config.defense.threshold,
        "unflagged": audited.threshold.unflagged,
        "false_positive_rate": audited.threshold.rate,  # at most, of clean models like those of the calibration
        "basis": audited.threshold.basis,
        "metrics": metrics,
        "settings": own(config.defense),
        "protocol": audited.result.protocol["audit"],
    }


def repaired(made: Subject, audited: Audited) -> tuple[Path, StageResult]:
    """Return the folder of the model without what the inverted trigger calls up, and its scores under that trigger.

    The removal of conf/defense/removal gets all images of conf/data, which are clean. Raises RequestError where they
    cannot be had.
    """
    config, stages, inverted = made.config, made.stages, audited.found.inversion
    cache = Path(config.paths.cache).expanduser()
    given: Images = make(config.data, cache=cache, seed=config.seed, memory=config.runtime.memory)
    node, known = config.defense.removal, Known(audited.found)
    removal = method(node)
    if removal.needs_clean:
        raise RequestError(
            f"{type(removal).__name__} needs a clean model, which an audit has not: choose another removal"
        )
    model = remove(stages, audited.model, removal, plain(node), made.diffusion, given, config.seed, known)
    sampling, detection = sampling_of(made.sampling, inverted.family), examiner(config)
    start = shifted(inverted.trigger, inverted.gamma, family_of(sampling.sampler) == "ode")
    samples = draw_samples(stages, sampling, model, {"clean": clean(), "inverted": start}, "repaired_sample")
    if stages.planning:
        return model.folder / "model", StageResult()
    shown = {kind: first_images(samples, kind, detection.reads) for kind in ("clean", "inverted")}
    triggered, beside = (to_float(shown[kind][: detection.reads]) for kind in ("inverted", "clean"))
    verdict = detection.verdict(inverted, triggered, beside, config.defense.get("flag_by", "score"))
    return model.folder / "model", StageResult(
        {"score": verdict.score, **verdict.evidence, "called_up": called_up(audited, shown["inverted"], config)},
        samples={f"repaired {kind}": images for kind, images in shown.items()},
    )
