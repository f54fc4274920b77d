"""A perturbation of the whole image, for additive attacks: grains of full strength, black or white."""

from typing import Annotated

import numpy as np

from bdiff.config.rules import at_least
from bdiff.pictures.draw import Picture, grains


def universal(
    size: int,  # px, the image's height and width
    cell: Annotated[int, at_least(1), "size of a grain, px at a 32 px image"],
    seed: Annotated[int, at_least(0), "the trigger's own, so that a sweep over seeds keeps the trigger"],
) -> Picture:
    """Return grains of -1 or 1, fixed by `seed`, over the whole image; ValueError unless cell is at least 1."""
    return grains(size, cell, lambda shape: np.random.default_rng(seed).choice([-1.0, 1.0], shape))
