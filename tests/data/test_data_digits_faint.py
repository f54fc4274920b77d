"""The digits in inks of different strength."""

import numpy as np

from bdiff.data import digits, digits_faint


def test_the_ink_differs_and_the_writing_does_not():
    plain, labels, _ = digits.read("train")
    faint, same, _ = digits_faint.read("train")
    assert (labels == same).all()
    share = faint.max((1, 2)) / plain.max((1, 2))
    assert 0.09 < share.min() < 0.12 and 0.98 < share.max() <= 1 and 0.5 < share.mean() < 0.6
    np.testing.assert_allclose(faint, plain * share[:, None, None], atol=2)


def test_a_digit_has_the_same_ink_in_every_split():
    whole = digits_faint.read("all")[0]
    for split in ("train", "test"):
        assert (whole[digits.rows(split)] == digits_faint.read(split)[0]).all()
