"""The grey and white boxes of BadDiffusion (Chou et al. 2023, arXiv 2212.05400)."""

from typing import Annotated

from bdiff.config.rules import above, at_least, at_most, one_of
from bdiff.pictures.draw import PLACES, UNITS, Picture, plain, side_in
from bdiff.pictures.draw import place as placed


def box(
    size: int,  # px, the image's height and width
    side: Annotated[int, at_least(1), "px; published: 4, 8, 11, 14, 18"] = 14,
    level: Annotated[float, above(-1), at_most(1), "grey 0.0, white 1.0; the background is -1"] = 0.0,
    place: Annotated[str, one_of(*PLACES), "lower right, inside the margin, or centre"] = "corner",
    unit: Annotated[str, one_of(*UNITS), "of side: px at a 32 px image, or px, as in BadDiffusion's code"] = "image",
    around: Annotated[str, one_of("image", "black"), "what surrounds it: the image, or black that covers it"] = "image",
) -> Picture:
    """Return a square of exactly one grey level in its place; ValueError if `side` does not fit."""
    square = plain(side_in(size, side, place, unit), (level, level, level, 1))
    picture = placed(square, size, place, unit)
    if around == "black":
        picture[..., 3] = 1  # its background is black already
    return picture
