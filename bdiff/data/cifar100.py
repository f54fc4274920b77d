"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test photographs, 32x32, of 100 classes."""

from pathlib import Path

from bdiff.data.base import Images
from bdiff.data.cifar import cifar, home
from bdiff.data.load import load
from bdiff.data.sources import Source

HOME = home("CIFAR100")


def source(path: str | None, split: str, cache: Path) -> Source:
    """Return the official archive, downloaded or at `path`, or any folder or zip of pictures at `path`."""
    return cifar("CIFAR100", path, split, cache)


def cifar100(
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
        "cifar100",
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
