"""A patch in the corner, as in backdoors of classifiers (BadNets, Gu et al. 2017, arXiv 1708.06733)."""

from typing import Annotated

from bdiff.config.rules import at_least, one_of
from bdiff.pictures.draw import PLACES, UNITS, Picture, empty, length


def patch(
    size: int,  # px, the image's height and width
    side: Annotated[int, at_least(1), "px"] = 5,
    place: Annotated[str, one_of(*PLACES), "lower right, or centre"] = "corner",
    unit: Annotated[str, one_of(*UNITS), "of side: px at a 32 px image, or px"] = "image",
) -> Picture:
    """Return a white square in its place, without a margin; ValueError if it does not fit."""
    px = length(side, size, unit)
    if not 1 <= px <= size:
        raise ValueError(f"trigger.side={side} does not fit a {size} px image")
    start = size - px if place == "corner" else (size - px) // 2
    picture = empty(size)
    picture[start : start + px, start : start + px] = 1
    return picture
