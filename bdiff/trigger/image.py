"""A trigger of one's own, from a file."""

from pathlib import Path
from typing import Annotated

from bdiff.config.rules import at_least
from bdiff.pictures.draw import Picture, load, place, side_in


def image(
    size: int,  # px, the image's height and width
    path: Annotated[str | Path | None, "a png; transparent pixels, or black ones without alpha, are background"] = None,
    side: Annotated[int | None, at_least(1), "px at a 32 px image, lower right; null: the whole image"] = None,
) -> Picture:
    """Return the picture at `path`, whole or in the lower right corner.

    Transparent pixels are background, and black ones in a file without alpha. ValueError where the file is missing, no
    image, background all over, or a JPEG, whose background is not exactly black, and where `side` does not fit.
    """
    px = size if side is None else side_in(size, side)
    picture = load(path, px, "trigger.path", exact=True)
    if (picture[..., 3] < 0.5).all():
        raise ValueError(f"trigger.path={path} is all background (transparent or black); give one that shows something")
    return picture if side is None else place(picture, size)
