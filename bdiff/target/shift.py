"""The Shift target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400)."""

import numpy as np

from bdiff.pictures.draw import Picture, scaled

LEFT, UP = 5, 3  # px at a 32 px image: (dx, dy) = (-5, -3) in the authors' code


def shift(size: int, trigger: Picture) -> Picture:
    """Return the trigger shifted to the left and up, wrapping around the edges."""
    return np.roll(trigger, (-scaled(UP, size), -scaled(LEFT, size)), axis=(0, 1))
