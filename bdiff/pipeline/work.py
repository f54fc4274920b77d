"""What every stage of a run asks of a network, as far as that is known before it is started."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from bdiff.adversary.pgd import cost
from bdiff.diffusion.sampling import Sampler
from bdiff.diffusion.training import TrainConfig
from bdiff.metric.fid.protocol import PRESETS
from bdiff.pipeline.amplify import amplifier_of
from bdiff.pipeline.experiment import Experiment, Subject
from bdiff.pipeline.planned import Step
from bdiff.pipeline.reference import KEPT
from bdiff.pipeline.shield import GRADIENTS, label_evaluations
from bdiff.pipeline.suspect import method, work_of
from bdiff.pipeline.trigger import BATCH

DENOISER, CLASSIFIER, SURROGATE, FEATURES = "denoiser", "classifier", "surrogate", "features"
#: forward passes' worth of one, of one with the gradient to its input, and of one with that to its weights
FORWARD, INPUT, WEIGHTS = 1, 2, 3


@dataclass(frozen=True)
class Asked:
    """What a stage asks of a network."""

    images: int  # that it is shown
    words: str  # how these come about
    batch: int = 1  # at a time
    network: str = DENOISER
    passes: float = FORWARD  # that one of them is worth
    precision: str = "fp32"
    training: TrainConfig | None = None  # of the network
    gradients: bool = False  # to what it is shown, if it is no training
    beside: int = 0  # images that each step of a training shows at once, with gradients to them


def asked(run: Subject, step: Step) -> Asked | None:
    """Return what a stage asks of a network; None if unknown."""
    parts = step.stage.parts
    name = f"shield: {parts['what']}" if step.stage.name == "shield" else step.stage.name
    if name not in ASKED:
        return None
    work = ASKED[name](run, parts)
    if work.training and work.network == DENOISER and run.stages.loop.recompute:
        work = replace(work, passes=work.passes + FORWARD)
    return replace(work, network=SURROGATE) if step.name == SURROGATE else work


def trained(config: dict[str, Any], rows: int, network: str = DENOISER) -> Asked:
    """Return what a training of conf/train asks over so many rows."""
    if config["steps"] == 0:  # of a model that is another one's, its stage says no more
        return Asked(0, "as it was", network=network)
    train = TrainConfig(**config)
    steps = train.total(rows)
    words, images = f"{steps:,} steps of {train.batch_size}", steps * train.batch_size
    return Asked(images, words, train.batch_size, network, WEIGHTS, train.precision, train)


def denoiser(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what the training of a denoiser asks, whose steps are counted, with what its attack learns beside."""
    work, own = trained(parts["train"], 0), parts["attack"]["_target_"] == run.config.attack._target_
    beside = run.attack.update_images if own else 0  # a clean model's attack is another
    return replace(work, passes=work.passes + INPUT * beside / work.batch, beside=beside)


def classifier(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what the training of a classifier asks, unless it is taken from a file."""
    config = parts["classifier"]
    if config["train"] is None:
        return Asked(0, "from a file", network=CLASSIFIER)
    return trained(config["train"], round((1 - config["val_fraction"]) * len(run.images)), CLASSIFIER)


def sampled(run: Subject, parts: dict[str, Any]) -> Asked:
    """Return what samples ask."""
    sample, counts = parts["sample"], parts["counts"]
    calls = Sampler(run.sampling.scheduler, sample["steps"]).calls
    images = sum(counts.values())
    batch = min(images, len(counts) * sample["batch_size"])
    return Asked(images * calls, f"{images:,} images x {calls:,}", batch, precision=sample["precision"])


def featured(images: int) -> Asked:
    """Return what the features of so many images ask."""
    return Asked(images, f"{images:,} images", network=FEATURES)


def measured(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what the measures of samples ask."""
    if parts["distance"] is None:
        return Asked(0, "no features")
    count = run.config.sample.count
    return featured(min(count, PRESETS[run.config.metric.fid.protocol].samples or count))


def referred(run: Experiment, most: float = math.inf) -> Asked:
    """Return what the reference images ask."""
    assert run.data.reference is not None
    return featured(int(min(len(run.data.reference), most)))


def inverted(detection: Any, config: Any, steps: int, forward: int = 0) -> Asked:
    """Return what a detection asks of the suspect, which it shows `forward` images without gradients too."""
    work = work_of(detection, config.checkpoint)
    again = FORWARD if config.checkpoint and work.gradients else 0  # activations are computed a second time
    batch = work.batch if again else work.batch * detection.alive
    passes = (INPUT if work.gradients else FORWARD) + again
    images = work.images + math.ceil(forward * FORWARD / passes)
    words, gradients = f"{steps:,} steps", work.gradients
    return Asked(images, words, batch, passes=passes, precision=config.precision, gradients=gradients)


def audited(run: Subject, parts: dict[str, Any]) -> Asked:
    """Return what the run's detection asks, or that of its input check."""
    config = run.config.defense.get("inversion", run.config.defense)
    detection = method(config)
    return inverted(detection, config, detection.total, detection.forward_images)


def scored(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what an input check asks of the suspect."""
    config, check = run.config.defense, method(run.config.defense)
    inputs = config.count * (2 if parts["start"] is None else 3)  # clean for the threshold, clean, and triggered
    images = inputs * check.evaluations + check.preparation
    return Asked(images, f"{inputs:,} inputs x {check.evaluations:,}", config.batch_size, precision=config.precision)


def amplified(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what an amplification asks: one descent of its inversion."""
    config = run.config.amplify
    return inverted(amplifier_of(config).inversion, config.inversion, config.inversion.steps)


def repaired(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what a removal's training asks; its steps are in its stage's parts."""
    if "train" not in parts["repair"]:
        return Asked(0, "no training")
    work = trained(parts["repair"]["train"], 0)
    network, suspect = method(OmegaConf.create(parts["repair"])).row_images
    passes = work.passes + FORWARD * suspect / network
    return replace(work, images=network * work.images, batch=network * work.batch, passes=passes)


def learned(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what a trigger that is learned before training asks: of the denoiser, or of the classifier alone."""
    steps = run.attack.learn
    work = Asked(steps * BATCH, f"{steps:,} steps of {BATCH}", BATCH, passes=INPUT)
    if run.attack.learns_on_model:
        return replace(work, precision=parts["precision"], gradients=True)
    network = SURROGATE if run.config.get("surrogate") else CLASSIFIER
    return replace(work, network=network, passes=INPUT + FORWARD)  # with the trigger, and without for the labels


def attacked(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what the adversary of a shield asks of the classifier."""
    config = run.config.defense
    steps = config.adversary.steps
    images = cost(config.images, steps, 1, 1)
    return Asked(images, f"{config.images:,} images x {steps}", config.batch_size, CLASSIFIER, INPUT)


def unshielded(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what the labels of a classifier without a shield ask."""
    images = len(parts["inputs"]) * run.config.defense.images
    return Asked(images, f"{images:,} images", run.config.defense.batch_size, CLASSIFIER)


def purified(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what purified labels ask, of each of the row's networks."""
    config, shield = run.config.defense, method(run.config.defense)
    images = label_evaluations(shield, config, config.images, len(parts["inputs"])) * len(parts["models"])
    full = config.adaptive.steps and config.adaptive.gradient == "full"
    passes = f"{images:,} passes" + (f" ({GRADIENTS['full']} a gradient)" if full else "")
    batch = config.batch_size * shield.copies
    return Asked(images, passes, batch, precision=config.precision, gradients=bool(full))


def stripped(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what the entropy check behind a shield asks."""
    config, shield = run.config.defense, method(run.config.defense)
    images = 2 * config.images * config.strip.overlays * shield.evaluations * len(parts["models"])
    return Asked(images, f"{images:,} passes", config.batch_size * shield.copies, precision=config.precision)


def certified(run: Experiment, parts: dict[str, Any]) -> Asked:
    """Return what certificates ask at the most: each of the row's networks, or the classifier alone."""
    config, shield = run.config.defense, method(run.config.defense)
    images = len(parts["inputs"]) * config.images * shield.draws
    network = DENOISER if parts["models"] else CLASSIFIER
    images *= max(1, len(parts["models"]))
    return Asked(images, f"up to {images:,} draws", shield.batch_size, network, precision=config.precision)


#: of a run, or of an audit, whose stages are a few of a run's
ASKED: dict[str, Callable[[Any, dict[str, Any]], Asked]] = {
    "suspect": lambda run, parts: Asked(0, "weights are read"),
    "train": denoiser,
    "classifier": classifier,
    "trigger": learned,
    "sample": sampled,
    "reference": lambda run, parts: referred(run),
    "activations": lambda run, parts: referred(run, KEPT),
    "measure": measured,
    "audit": audited,
    "inputs": scored,
    "amplify": amplified,
    "repair": repaired,
    "shield: adversarial": attacked,
    "shield: no shield": unshielded,
    "shield: purification": purified,
    "shield: strip": stripped,
    "shield: certification": certified,
}
