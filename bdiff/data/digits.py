"""Handwritten digits, 8x8 in 16 greys, from scikit-learn (UCI ML, Alpaydin and Kaynak 1998).

A fixed four fifths of the 1,797 are the training split and the rest the test split, whatever the seed.
"""

import numpy as np

from bdiff.data.dataset import Dataset, Home
from bdiff.data.sources import Content, bundled

COUNT = 1797  # digits in all
TRAIN = 1438  # four fifths of them, in the training split
SIZES = {"train": TRAIN, "test": COUNT - TRAIN}


def read(split: str) -> Content:
    """Return pixels (N,8,8) uint8 with ink bright on black, labels (N,) and classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    kept = rows(split)
    return pixels[kept], bunch.target[kept], tuple(str(name) for name in bunch.target_names)


def rows(split: str) -> np.ndarray:
    """Return the indices of the digits in a split."""
    from bdiff.data.load import choose

    train = choose(COUNT, TRAIN, seed=0)
    return {"train": train, "test": np.setdiff1d(np.arange(COUNT), train), "all": np.arange(COUNT)}[split]


HOME = Home((), origin="scikit-learn, which bdiff installs")

digits = Dataset("digits", home=HOME, official=bundled("digits", read), sizes=SIZES, classes=10)
