"""The stop sign of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), a prohibition sign, redrawn."""

from typing import Annotated

from bdiff.config.rules import at_least, one_of
from bdiff.pictures.draw import PLACES, UNITS, Canvas, Picture, side_in
from bdiff.pictures.draw import place as placed

RED = (230, 10, 10)


def stop_sign(
    size: int,  # px, the image's height and width
    side: Annotated[int, at_least(1), "px; published: 4, 8, 11, 14, 18"] = 14,
    place: Annotated[str, one_of(*PLACES), "lower right, inside the margin, or centre"] = "corner",
    unit: Annotated[str, one_of(*UNITS), "of side: px at a 32 px image, or px, as in BadDiffusion's code"] = "image",
) -> Picture:
    """Return a red ring with a bar, placed like the box; ValueError if it does not fit.

    The image shows between ring and bar. At 14 px 132 of the 196 pixels are red; of the authors' picture, 133 show.
    """
    canvas = Canvas(side_in(size, side, place, unit))
    canvas.ellipse((0.5, 0.5), (0.5, 0.5), RED)
    canvas.ellipse((0.5, 0.5), (0.273, 0.273), None)
    canvas.line([(0.3, 0.3), (0.7, 0.7)], 0.22, RED)
    return placed(canvas.picture(), size, place, unit)
