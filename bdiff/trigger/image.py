"""A custom trigger, from a file."""

from pathlib import Path
from typing import Annotated

from bdiff.config.rules import at_least, one_of
from bdiff.pictures import authors
from bdiff.pictures.authors import READINGS
from bdiff.pictures.draw import COLOURS, PLACES, UNITS, Picture, load, margin, side_in
from bdiff.pictures.draw import place as placed


def image(
    size: int,  # px, the image's height and width
    path: Annotated[str | Path | None, "a png; transparent pixels, or black ones without alpha, are background"] = None,
    side: Annotated[int | None, at_least(1), "px; null: the whole image"] = None,
    place: Annotated[str, one_of(*PLACES), "lower right, inside the margin, or centre"] = "corner",
    unit: Annotated[
        str | None,
        one_of(*UNITS),
        "of side: px at a 32 px image, or px; null: pixel for the authors' reading, else image",
    ] = None,
    reading: Annotated[
        str, one_of(*READINGS), "alpha, or authors: without alpha; white and black are background, in each channel"
    ] = "alpha",
) -> Picture:
    """Return the picture at `path`, over the whole image, in the lower right corner or in the centre.

    Transparent pixels are background, and black ones in a file without alpha. `authors` reads the file as the code of
    BadDiffusion does, and `side` is its shorter edge. ValueError if the file is missing, not an image, or all
    background, if it does not fit, and if its alpha is read but it is a JPEG, whose background is not exactly black.
    """
    theirs = reading == "authors"
    unit = unit or ("pixel" if theirs else "image")
    px = size if side is None else side_in(size, side, place, unit)
    picture = authors.trigger(path, px) if theirs else load(path, px, "trigger.path", exact=True)
    if (picture[..., COLOURS[picture.shape[2]] :] < 0.5).all():  # also in the planes of other data than these
        background = "white or black" if theirs else "transparent or black"
        raise ValueError(f"trigger.path={path} is all background ({background}): choose another picture")
    if side is None and picture.shape[:2] == (size, size):
        return picture
    height, width, _ = picture.shape
    if max(height, width) > size - margin(size, place, unit):
        raise ValueError(
            f"trigger.path={path} is {width} x {height} px with trigger.side={px}, the shorter edge, which does not "
            f"fit a {size} px image: set a smaller trigger.side"
        )
    return placed(picture, size, place, unit)
