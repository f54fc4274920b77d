"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test photographs, 32x32, of 100 classes."""

from pathlib import Path

from bdiff.data.base import Images
from bdiff.data.cifar import cifar
from bdiff.data.load import load


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
    """Return the official archive, downloaded or at `path`, or any folder or zip of pictures at `path`."""
    source = cifar("CIFAR100", path, split, cache)
    return load(
        "cifar100",
        source,
        size=size,
        channels=channels,
        split=split,
        limit=limit,
        flip=flip,
        cache=cache,
        seed=seed,
        memory=memory,
    )
