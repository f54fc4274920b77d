"""The digits in inks of different strength, so that they differ in contrast, as photographs do.

In the plain digits every picture is in full ink, so the black background of a trigger is unlike anything that was
stamped in training, and a backdoor with a bright target does not work. The miniature tables use these digits.
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


digits_faint = Dataset(
    "digits_faint", home=digits.HOME, official=bundled("digits_faint", read), sizes=digits.SIZES, classes=10
)
