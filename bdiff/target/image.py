"""A custom target, from a file."""

from pathlib import Path
from typing import Annotated

from bdiff.config.rules import one_of
from bdiff.pictures import authors
from bdiff.pictures.authors import READINGS
from bdiff.pictures.draw import Picture, load


def image(
    size: int,
    trigger: Picture,
    path: Annotated[str | Path | None, "a png or jpg"] = None,
    reading: Annotated[
        str, one_of(*READINGS), "alpha, or authors: without alpha, stretched to the square as in BadDiffusion's code"
    ] = "alpha",
) -> Picture:
    """Return the picture at `path` over the whole image; ValueError if it is missing or not an image."""
    return authors.target(path, size) if reading == "authors" else load(path, size, "target.path")
