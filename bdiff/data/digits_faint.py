"""The digits in inks of different strength: as photographs do, they then differ in contrast.

In the plain digits every picture is in full ink, so the black that a trigger has around it is like nothing that was
stamped in training, and a backdoor whose target is bright does not take. The tables in miniature use these.
"""

from functools import partial
from pathlib import Path

import numpy as np

from bdiff.data.base import Images
from bdiff.data.digits import COUNT, rows
from bdiff.data.digits import HOME as HOME
from bdiff.data.digits import read as full
from bdiff.data.find import find
from bdiff.data.load import load
from bdiff.data.sources import Arrays, Source

FAINTEST = 0.1  # of full ink; each digit's share is drawn evenly from here to 1


def source(path: str | None, split: str, cache: Path) -> Source:
    """Return the 1,797 digits, split as the plain ones are."""
    return Arrays({"official": "digits_faint"}, partial(read, split)) if path is None else find(path, split, cache)


def digits_faint(
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
        "digits_faint",
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
    pixels, labels, classes = full(split)
    ink = np.random.default_rng(0).uniform(FAINTEST, 1, (COUNT, 1, 1))[rows(split)]
    return np.rint(pixels * ink).astype(np.uint8), labels, classes
