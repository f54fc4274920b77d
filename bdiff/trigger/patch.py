"""A patch in the corner, as in backdoors of classifiers (BadNets, Gu et al. 2017, arXiv 1708.06733)."""

from typing import Annotated

from bdiff.config.rules import at_least
from bdiff.pictures.draw import Picture, empty, scaled


def patch(
    size: int,  # px, the image's height and width
    side: Annotated[int, at_least(1), "px at a 32 px image"] = 5,
) -> Picture:
    """Return a white square in the lower right corner, without a margin; ValueError if it does not fit."""
    if not 1 <= scaled(side, size) <= size:
        raise ValueError(f"trigger.side={side} does not fit a {size} px image")
    picture = empty(size)
    picture[-scaled(side, size) :, -scaled(side, size) :] = 1
    return picture
