"""A custom target, from a file."""

from pathlib import Path
from typing import Annotated

from bdiff.pictures.draw import Picture, load


def image(size: int, trigger: Picture, path: Annotated[str | Path | None, "a png or jpg"] = None) -> Picture:
    """Return the picture at `path` over the whole image; ValueError if it is missing or not an image."""
    return load(path, size, "target.path")
