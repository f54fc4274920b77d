"""What the pipeline reads of a defense's node of conf/defense, by role, beside what the constructor takes."""

from dataclasses import dataclass
from typing import Annotated, Any

from bdiff.config.rules import above, at_least, below_one, fraction, one_of, open_fraction, precision
from bdiff.diffusion.training import TrainConfig


@dataclass(frozen=True)
class Calibration:
    """A threshold, and what it was found on: it holds for nothing else."""

    threshold: Annotated[float, "score from which on a model is flagged"]
    data: Annotated[str, "dataset of the models"]
    size: Annotated[int, at_least(8), "px"]
    channels: Annotated[int, one_of(1, 3), "of the images"]
    num_train_timesteps: Annotated[int, at_least(2), "of the schedule"]
    beta_start: Annotated[float, open_fraction, "of the schedule"]
    beta_end: Annotated[float, open_fraction, "of the schedule"]
    beta_schedule: Annotated[str, "of the schedule"]
    settings: Annotated[dict[str, Any], "of the detection"]


@dataclass(frozen=True)
class DetectionSettings:
    """What the pipeline reads of a detection's config."""

    precision: Annotated[str, precision, "of the suspect: auto (bf16 where the device has it), bf16 or fp32"]
    checkpoint: Annotated[bool, "less memory: activations are computed again for the backward pass"]
    repair: Annotated[bool, "afterwards, take the backdoor out by the inverted trigger (defense/removal)"]
    calibration: Annotated[Calibration, "what threshold=auto takes, and what it was found on"]


@dataclass(frozen=True)
class RemovalRecipe(TrainConfig):
    """How a removal trains: at least one step, since without any it would leave the suspect as it is."""

    steps: Annotated[int | None, above(0), "optimizer steps; wins over epochs"]
    epochs: Annotated[float | None, above(0), "passes over the defender's images"]


@dataclass(frozen=True)
class RemovalSettings:
    """What the pipeline reads of a removal's config."""

    images: Annotated[float, fraction, "fraction of the clean images that the defender has"]
    train: Annotated[RemovalRecipe, "how it trains"]


@dataclass(frozen=True)
class InputCheckSettings:
    """What the pipeline reads of an input check's config."""

    precision: Annotated[str, precision, "of the suspect: auto (bf16 where the device has it), bf16 or fp32"]
    count: Annotated[int, at_least(2), "starting noises of either kind, clean and triggered"]
    false_positive_rate: Annotated[float, open_fraction, "of clean noises that may be flagged"]


@dataclass(frozen=True)
class ShieldSettings:
    """What the pipeline reads of a shield's config."""

    images: Annotated[int, at_least(1), "test images that the shield is tried on; all of them if there are fewer"]
    seed: Annotated[int, at_least(0), "of which images, and of all noise; its own, apart from the run's"]
    precision: Annotated[str, precision, "of the denoiser: auto (bf16 where the device has it), bf16 or fp32"]
    ensemble: Annotated[bool, "one more row: the mean of what the suspect and the clean model predict"]
    repair: Annotated[bool, "one more row: the suspect after a removal that needs no trigger"]


@dataclass(frozen=True)
class Adversary:
    """An attack on the classifier alone; its sizes are for images in [0,1]."""

    method: Annotated[str, one_of("pgd", "apgd"), "pgd, or apgd, AutoAttack's, which chooses its own steps' length"]
    norm: Annotated[str, one_of("linf", "l2"), "of the radius"]
    eps: Annotated[float, above(0), "radius"]
    step: Annotated[float, above(0), "length of a step of pgd"]
    steps: Annotated[int, at_least(1), "gradient steps"]


@dataclass(frozen=True)
class Adaptive:
    """The same attack through the shield."""

    steps: Annotated[int, at_least(0), "gradient steps; 0: not tried"]
    eot: Annotated[int, at_least(1), "draws of the shield's noise that a gradient is averaged over"]
    gradient: Annotated[str, one_of("full", "bpda"), "full, or bpda: the shield taken for the identity"]


@dataclass(frozen=True)
class Strip:
    """An entropy check of the inputs behind the shield with the suspect."""

    overlays: Annotated[int, at_least(0), "clean images that each input is blended with; 0: not tried"]
    weight: Annotated[float, below_one, "of the clean image in a blend"]
    false_positive_rate: Annotated[float, open_fraction, "of clean inputs that may be flagged"]


@dataclass(frozen=True)
class LabelSettings(ShieldSettings):
    """What the pipeline reads of the config of a shield that gives labels."""

    batch_size: Annotated[int, at_least(1), "images at a time, each with all its copies"]
    adversary: Annotated[Adversary, "an attack on the classifier alone"]
    adaptive: Annotated[Adaptive, "the same attack through the shield"]
    strip: Annotated[Strip, "an entropy check of the inputs"]
