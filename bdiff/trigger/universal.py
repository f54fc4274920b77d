"""A perturbation of the whole image, for attacks that add it to one: grains of full strength, black or white."""

import numpy as np

from bdiff.pictures.draw import Picture, grains


def universal(
    size: int,  # px, the image's height and width
    cell: int,  # px at a 32 px image: how large its grains are
    seed: int,
) -> Picture:
    """Return grains of -1 or 1, fixed by `seed`, over the whole image; ValueError unless cell is at least 1."""
    return grains(size, cell, lambda shape: np.random.default_rng(seed).choice([-1.0, 1.0], shape))
