"""AUROC against scikit-learn's, and thresholds by what they let through."""

import random

import pytest
from sklearn.metrics import roc_auc_score

from bdiff.metric.roc import auroc, rate_above, threshold_at


@pytest.mark.parametrize("digits", [0, 1, 9])  # few digits make many ties
def test_auroc_is_scikit_learns(digits):
    draw = random.Random(digits)
    clean, attacked = ([round(draw.gauss(mean, 1), digits) for _ in range(count)] for mean, count in ((0, 70), (1, 40)))
    expected = roc_auc_score([0] * 70 + [1] * 40, clean + attacked)
    assert auroc(clean, attacked) == pytest.approx(expected, rel=1e-12)


def test_without_a_pair_there_is_no_auroc():
    assert auroc([], [1.0]) is None and auroc([1.0], []) is None


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("scores", [[*range(100)], [1, 1, 1, 2], [3.0]])
def test_a_threshold_is_the_least_of_the_scores_that_keeps_the_rate(rate, scores):
    found = threshold_at(scores, rate)
    assert rate_above(scores, found) <= rate
    assert all(rate_above(scores, lower) > rate for lower in scores if lower < found)
