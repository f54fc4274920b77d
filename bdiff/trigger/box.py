"""The grey box of BadDiffusion (Chou et al. 2023, arXiv 2212.05400)."""

from typing import Annotated

from bdiff.config.rules import at_least
from bdiff.pictures.draw import Picture, place, plain, side_in


def box(
    size: int,  # px, the image's height and width
    side: Annotated[int, at_least(1), "px at a 32 px image; published: 4, 8, 11, 14, 18"] = 14,
) -> Picture:
    """Return a square of grey exactly 0.0 in the lower right corner; ValueError if `side` does not fit."""
    return place(plain(side_in(size, side), (0, 0, 0, 1)), size)
