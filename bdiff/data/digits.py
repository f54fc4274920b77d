"""Handwritten digits, 8x8 in 16 greys, from scikit-learn (UCI ML, Alpaydin and Kaynak 1998)."""

from functools import partial
from pathlib import Path

import numpy as np

from bdiff.data.base import Images
from bdiff.data.find import Home, find
from bdiff.data.load import choose, load
from bdiff.data.sources import Arrays, Source

COUNT = 1797  # digits in all
TRAIN = 1438  # of them, four fifths, in the training split

HOME = Home((), origin="scikit-learn, which bdiff installs")


def source(path: str | None, split: str, cache: Path) -> Source:
    """Return the 1,797 digits: a fixed four fifths as train, the rest as test, whatever the seed."""
    return Arrays({"official": "digits"}, partial(read, split)) if path is None else find(path, split, cache)


def digits(
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
        "digits",
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


def read(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return pixels (N,8,8) uint8 with ink bright on black, labels (N,) and classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    kept = rows(split)
    return pixels[kept], bunch.target[kept], tuple(str(name) for name in bunch.target_names)


def rows(split: str) -> np.ndarray:
    """Return which of the digits make up a split."""
    train = choose(COUNT, TRAIN, seed=0)
    return {"train": train, "test": np.setdiff1d(np.arange(COUNT), train), "all": np.arange(COUNT)}[split]
