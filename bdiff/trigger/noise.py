"""A trigger that looks like noise, without a shape or a position."""

from typing import Annotated

import numpy as np

from bdiff.config.rules import at_least
from bdiff.pictures.draw import Picture, grains


def noise(
    size: int,  # px, the image's height and width
    cell: Annotated[int, at_least(1), "size of a grain, px at a 32 px image"],
    seed: Annotated[int, at_least(0), "the trigger's own, so that a sweep over seeds keeps the trigger"],
) -> Picture:
    """Return grey grains, uniform in [-1,1] and fixed by `seed`, over the whole image; ValueError unless cell >= 1."""
    return grains(size, cell, lambda shape: np.random.default_rng(seed).uniform(-1, 1, shape))
