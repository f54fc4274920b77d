"""What the pipeline reads of a defense's settings beside its constructor, by role."""

from dataclasses import dataclass
from typing import Annotated

from bdiff.config.rules import above, at_least, below_one, fraction, one_of, open_fraction, precision
from bdiff.diffusion.training import Recipe


@dataclass(frozen=True)
class Calibration:
    """What a threshold of auto takes, and what that was found on: it holds for nothing else."""

    threshold: Annotated[float, "score from which on a model is flagged"]
    data: Annotated[str, "dataset"]
    size: Annotated[int, at_least(8), "px"]
    channels: Annotated[int, one_of(1, 3), "of its images"]
    num_train_timesteps: Annotated[int, at_least(2), "of the schedule"]
    beta_start: Annotated[float, open_fraction, "of the schedule"]
    beta_end: Annotated[float, open_fraction, "of the schedule"]
    beta_schedule: Annotated[str, "of the schedule"]
    settings: Annotated[dict, "the defense's own"]


@dataclass(frozen=True)
class DetectionSettings:
    """Around a detection."""

    calibration: Annotated[Calibration, "what a threshold of auto takes, and what that was found on"]
    precision: Annotated[str, precision, "of the suspect; auto is bf16 where the device has it"]
    checkpoint: Annotated[bool, "less memory: activations are computed again for the backward pass"]
    repair: Annotated[bool, "afterwards, take the backdoor out by the inverted trigger (defense/removal)"]


@dataclass(frozen=True)
class RemovalRecipe(Recipe):
    """How a removal trains; one that trains nothing would leave the suspect as it is."""

    steps: Annotated[int | None, above(0), "optimizer steps; wins over epochs"]
    epochs: Annotated[float | None, above(0), "passes over the defender's images"]


@dataclass(frozen=True)
class RemovalSettings:
    """Around a removal."""

    images: Annotated[float, fraction, "share of the clean images that the defender has"]
    train: Annotated[RemovalRecipe, "how it is trained"]


@dataclass(frozen=True)
class ShieldSettings:
    """Around a shield."""

    images: Annotated[int, at_least(1), "test images that the shield is tried on; all if there are fewer"]
    seed: Annotated[int, at_least(0), "of which images, and of all noise; its own, so that runs are tried alike"]
    precision: Annotated[str, precision, "of the denoiser; auto is bf16 where the device has it"]
    ensemble: Annotated[bool, "one more row: the mean of what the suspect and the clean model predict"]
    repair: Annotated[bool, "one more row: the suspect repaired first, by a repair that needs no trigger"]


@dataclass(frozen=True)
class Adversary:
    """An attack on the classifier alone; sizes are for images in [0,1]."""

    method: Annotated[str, one_of("pgd", "apgd"), "apgd is AutoAttack's: pip install 'bdiff[attacks]'"]
    norm: Annotated[str, one_of("linf", "l2"), "of what it changes"]
    eps: Annotated[float, above(0), "radius, for images in [0,1]"]
    step: Annotated[float, above(0), "length of a step of pgd"]
    steps: Annotated[int, at_least(1), "of the attack"]


@dataclass(frozen=True)
class Adaptive:
    """The same attack through the shield."""

    steps: Annotated[int, at_least(0), "of the attack; 0: it is not tried"]
    eot: Annotated[int, at_least(1), "draws of the shield's noise that a gradient is averaged over"]
    gradient: Annotated[str, one_of("full", "bpda"), "bpda takes the purification for the identity"]


@dataclass(frozen=True)
class Strip:
    """An entropy check of the inputs behind the shield with the suspect."""

    blends: Annotated[int, at_least(0), "clean images that each input is blended with; 0: it is not tried"]
    weight: Annotated[float, below_one, "share of the clean image in a blend"]
    false_positive_rate: Annotated[float, open_fraction, "of clean inputs that may be flagged"]


@dataclass(frozen=True)
class PurificationSettings(ShieldSettings):
    """Around a purification."""

    at_once: Annotated[int, at_least(1), "images at a time, each with all its copies"]
    adversary: Annotated[Adversary, "an attack on the classifier alone"]
    adaptive: Annotated[Adaptive, "the same attack through the shield"]
    strip: Annotated[Strip, "an entropy check of the inputs"]
