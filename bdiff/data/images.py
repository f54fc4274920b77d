"""Pictures of your own: a folder, all that is below it included, or a zip as NVlabs/edm's dataset_tool makes."""

from pathlib import Path

from bdiff.data.base import Images
from bdiff.data.find import Home, local
from bdiff.data.load import load
from bdiff.data.sources import Source

HOME = Home(("images",), origin="wherever you keep pictures")


def source(path: str | None, split: str, cache: Path) -> Source:
    """Return the pictures at `path`; the class is the parent folder, or what the zip's dataset.json says."""
    return local(HOME, path, split, cache)


def images(
    *,
    cache: Path,
    seed: int,
    memory: float,
    size: int,
    channels: int,
    split: str,
    path: str | None,
    limit: int | None,
    flip: bool,
) -> Images:
    """Return the pictures of `source`."""
    return load(
        "images",
        source(path, split, cache),
        size=size,
        channels=channels,
        split=split,
        limit=limit,
        flip=flip,
        cache=cache,
        seed=seed,
        memory=memory,
    )
