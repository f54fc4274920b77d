"""Handwritten digits, 8x8 in 16 greys, from scikit-learn (UCI ML, Alpaydin and Kaynak 1998)."""

from functools import partial
from pathlib import Path

import numpy as np

from bdiff.data.base import Images
from bdiff.data.find import find
from bdiff.data.load import choose, load
from bdiff.data.sources import Arrays

COUNT = 1797  # digits in all
TRAIN = 1438  # of them, four fifths, in the training split


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
    """Return the 1,797 digits: a fixed four fifths as train, the rest as test, whatever the seed."""
    ours = Arrays({"official": "digits"}, partial(read, split))
    source = ours if path is None else find(path, split, cache)
    return load(
        "digits",
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


def read(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return pixels (N,8,8) uint8 with ink bright on black, labels (N,) and classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    train = choose(COUNT, TRAIN, seed=0)
    rows = {"train": train, "test": np.setdiff1d(np.arange(COUNT), train), "all": np.arange(COUNT)}[split]
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return pixels[rows], bunch.target[rows], tuple(str(name) for name in bunch.target_names)
