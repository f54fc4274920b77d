"""A custom trigger, from a file."""

from pathlib import Path
from typing import Annotated

from bdiff.config.rules import at_least
from bdiff.pictures.draw import Picture, load, place, side_in


def image(
    size: int,  # px, the image's height and width
    path: Annotated[str | Path | None, "a png; transparent pixels, or black ones without alpha, are background"] = None,
    side: Annotated[int | None, at_least(1), "px at a 32 px image, lower right; null: the whole image"] = None,
) -> Picture:
    """Return the picture at `path`, over the whole image or in the lower right corner.

    Transparent pixels are background, and black ones in a file without alpha. ValueError if the file is missing, not an
    image, all background, or a JPEG, whose background is not exactly black, and if `side` does not fit.
    """
    px = size if side is None else side_in(size, side)
    picture = load(path, px, "trigger.path", exact=True)
    if (picture[..., 3] < 0.5).all():
        raise ValueError(f"trigger.path={path} is all background (transparent or black): choose another picture")
    return picture if side is None else place(picture, size)
