"""The digits in inks of different strength: as photographs do, they then differ in contrast.

In the plain digits every picture is in full ink, so the black that a trigger has around it is like nothing that was
stamped in training, and a backdoor whose target is bright does not take. The tables in miniature use these.
"""

import numpy as np

from bdiff.data import digits
from bdiff.data.dataset import Dataset
from bdiff.data.sources import Content, bundled

FAINTEST = 0.1  # of full ink; each digit's strength is drawn evenly from here to 1


def read(split: str) -> Content:
    """Return pixels (N,8,8) uint8 with ink bright on black, labels (N,) and classes."""
    pixels, labels, classes = digits.read(split)
    ink = np.random.default_rng(0).uniform(FAINTEST, 1, (digits.COUNT, 1, 1))[digits.rows(split)]
    return np.rint(pixels * ink).astype(np.uint8), labels, classes


digits_faint = Dataset("digits_faint", home=digits.HOME, official=bundled("digits_faint", read))
