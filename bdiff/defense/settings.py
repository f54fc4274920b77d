"""The settings of a defense's node of conf/defense that the pipeline reads, by role, not the constructor."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from bdiff.config.rules import above, at_least, below_one, fraction, one_of, open_fraction, precision, span
from bdiff.diffusion.training import TrainConfig

#: what PureDiffusion's threshold may be for; other detections have some of these
SCORES = ("score", "relative_score", "specific_score", "combined_score")


@dataclass(frozen=True)
class Calibration:
    """A threshold, and the models it was calibrated on: it is valid for no others, but what is null may be anything."""

    threshold: Annotated[float, "minimum score of a flagged model"]
    data: Annotated[str | None, "dataset of the models"] = None
    size: Annotated[int | None, at_least(8), "px"] = None
    sizes: Annotated[list[int] | None, span, "px, the least and the largest, where size is null"] = None
    channels: Annotated[int | None, one_of(1, 3), "of the images"] = None
    num_train_timesteps: Annotated[int | None, at_least(2), "of the schedule"] = None
    beta_start: Annotated[float | None, open_fraction, "of the schedule"] = None
    beta_end: Annotated[float | None, open_fraction, "of the schedule"] = None
    beta_schedule: Annotated[str | None, "of the schedule"] = None
    sampler: Annotated[str | None, "class of the scheduler that drew the samples of its verdicts"] = None
    sampler_steps: Annotated[int | None, at_least(1), "of that sampler"] = None
    settings: Annotated[dict[str, Any], "of the detection"] = field(default_factory=dict)
    score: Annotated[str, one_of(*SCORES), "the score that the threshold is for"] = "score"
    false_positive_rate: Annotated[float | None, open_fraction, "of the threshold, at most; null: not known"] = None
    models: Annotated[int | None, at_least(1), "number of the clean models"] = None
    data_sets: Annotated[list[str] | None, "of the clean models, where data is null"] = None


@dataclass(frozen=True)
class DetectionSettings:
    """The settings of a detection that the pipeline reads."""

    precision: Annotated[str, precision, "of the suspect: auto (bf16 where the device has it), bf16 or fp32"]
    checkpoint: Annotated[
        bool | int,
        at_least(0),
        "gradient checkpointing: less memory, but activations are recomputed; a number: of so many images at a time, "
        "for batches of any size",
    ]
    repair: Annotated[bool, "afterwards, remove the backdoor with the inverted trigger (defense/removal)"]
    calibration: Annotated[Calibration, "the threshold of threshold=auto, and the models it was calibrated on"]


@dataclass(frozen=True)
class ComparedSettings(DetectionSettings):
    """The settings of a detection that also scores samples relative to clean ones of the same model."""

    flag_by: Annotated[
        str, one_of("score", "relative_score"), "the score that the threshold is for: of one data set, or relative"
    ] = "score"


@dataclass(frozen=True)
class PureDiffusionSettings(ComparedSettings):
    """The settings of PureDiffusion that the pipeline reads."""

    flag_by: Annotated[str, one_of(*SCORES), "the score that the threshold is for"] = "score"


@dataclass(frozen=True)
class RemovalTrainConfig(TrainConfig):
    """How a removal trains: at least one step, since zero would leave the suspect unchanged."""

    steps: Annotated[int | None, above(0), "optimizer steps; overrides epochs"]
    epochs: Annotated[float | None, above(0), "passes over the defender's images"]


@dataclass(frozen=True)
class RemovalSettings:
    """The settings of a removal that the pipeline reads."""

    images: Annotated[float, fraction, "fraction of the clean images that the defender has"]
    train: Annotated[RemovalTrainConfig, "training config"]


@dataclass(frozen=True)
class CleanModelSettings:
    """The settings of a removal that trains nothing, but needs a clean model, that the pipeline reads."""

    clean: Annotated[str | None, "a clean model's diffusers folder or hub id; null: the one that training started from"]


@dataclass(frozen=True)
class InputCheckSettings:
    """The settings of an input check that the pipeline reads."""

    precision: Annotated[str, precision, "of the suspect: auto (bf16 where the device has it), bf16 or fp32"]
    count: Annotated[int, at_least(2), "starting noises of each kind: clean for the threshold, other clean, triggered"]
    batch_size: Annotated[int, at_least(1), "starting noises that are scored at a time"]
    false_positive_rate: Annotated[float, open_fraction, "fraction of clean noises that may be flagged"]


@dataclass(frozen=True)
class TriggerCheckSettings(InputCheckSettings):
    """The settings of an input check that starts from an inverted trigger."""

    inversion: Annotated[dict[str, Any], "the detection that inverts it, an option of defense"]


@dataclass(frozen=True)
class ShieldSettings:
    """The settings of a shield that the pipeline reads."""

    images: Annotated[int, at_least(1), "test images that the shield is evaluated on; all of them if there are fewer"]
    seed: Annotated[int, at_least(0), "of the choice of images and of all noise; independent of the run's"]
    precision: Annotated[str, precision, "of the denoiser: auto (bf16 where the device has it), bf16 or fp32"]
    ensemble: Annotated[bool, "adds a row: the mean prediction of the suspect and the clean model"]
    repair: Annotated[bool, "adds a row: the suspect after a removal that needs no trigger"]


@dataclass(frozen=True)
class Adversary:
    """An attack on the classifier without the shield; its sizes are for images in [0,1]."""

    method: Annotated[str, one_of("pgd", "apgd"), "pgd, or AutoAttack's apgd, which adapts its step size"]
    norm: Annotated[str, one_of("linf", "l2"), "of the radius"]
    eps: Annotated[float, above(0), "radius"]
    step: Annotated[float, above(0), "step size of pgd"]
    steps: Annotated[int, at_least(1), "gradient steps"]


@dataclass(frozen=True)
class Adaptive:
    """The same attack through the shield."""

    steps: Annotated[int, at_least(0), "gradient steps; 0: skipped"]
    eot: Annotated[int, at_least(1), "draws of the shield's noise that a gradient is averaged over"]
    gradient: Annotated[str, one_of("full", "bpda"), "full, or bpda: the shield is treated as the identity"]


@dataclass(frozen=True)
class Strip:
    """An entropy check of the inputs behind the shield with the suspect."""

    overlays: Annotated[int, at_least(0), "clean images that each input is blended with; 0: skipped"]
    weight: Annotated[float, below_one, "of the clean image in a blend"]
    false_positive_rate: Annotated[float, open_fraction, "fraction of clean inputs that may be flagged"]


@dataclass(frozen=True)
class LabelSettings(ShieldSettings):
    """The settings of a label shield that the pipeline reads."""

    batch_size: Annotated[int, at_least(1), "images per batch, each with all its copies"]
    adversary: Annotated[Adversary, "an attack on the classifier without the shield"]
    adaptive: Annotated[Adaptive, "the same attack through the shield"]
    strip: Annotated[Strip, "an entropy check of the inputs"]
