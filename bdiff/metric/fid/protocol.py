"""The number of samples and the reference of a Fréchet distance, as named presets, since papers differ. Torch-free."""

from dataclasses import dataclass
from typing import Annotated

from bdiff.config.rules import one_of


@dataclass(frozen=True)
class Preset:
    """One protocol of the distance."""

    samples: int | None  # the number of samples, from the first; None takes all
    split: str | None  # of the reference images: train, or all for train and test; None takes those trained on


PRESETS = {
    "bdiff": Preset(10_000, "train"),
    "baddiffusion": Preset(2_048, "all"),  # Chou et al. 2023; their script: fewer real ones, or a folder
    "pytorch_fid": Preset(None, None),  # two folders of images
}


@dataclass(frozen=True)
class Distance:
    """The settings of conf/metric/fid besides the features."""

    protocol: Annotated[
        str,
        one_of("bdiff", "baddiffusion", "pytorch_fid"),
        "bdiff (10,000 samples, train split), baddiffusion (2,048, train and test), pytorch_fid (all)",
    ]


@dataclass(frozen=True)
class PublishedDistance(Distance):
    """The same for features of published numbers, for which reference statistics exist."""

    reference: Annotated[str | None, "a .npz with mu and sigma instead of statistics of the images; null: the images'"]


def shortfalls(
    name: str,
    *,
    samples: int,  # that there are
    reference: int | None,  # images; None where statistics from a file do not say
    limited: bool,  # whether data.limit cut the reference
    published: bool,  # whether the reference statistics are read from a file
) -> list[str]:
    """Return, one line each, where the distance deviates from the preset `name`."""
    preset = PRESETS[name]
    marks = []
    if preset.samples is not None and samples < preset.samples:
        marks.append(f"fewer samples ({samples}) than the protocol's {preset.samples}")
    if published and preset.split is not None:
        marks.append(f"the reference is a file's, not taken from the protocol's images (split {preset.split})")
    if limited and preset.split is not None:
        marks.append(f"the reference is cut to {reference} images by data.limit")
    return marks


def singular(name: str, samples: int, reference: int | None, dimensions: int) -> list[str]:
    """Return, one line each, which covariance is singular for lack of images: such a distance is unreliable."""
    used = min(samples, PRESETS[name].samples or samples)
    return [
        f"fewer {what} ({count}) than feature dimensions ({dimensions}): their covariance is singular"
        for count, what in ((used, "samples"), (reference, "reference images"))
        if count is not None and count < dimensions
    ]
