"""AUROC against scikit-learn's, and thresholds by what they let through."""

import random
from fractions import Fraction

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


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("scores", [[*range(100)], [*range(99)], [*range(4)], [1, 1, 1, 2], [3.0]])
def test_a_threshold_is_the_least_of_the_scores_that_keeps_the_rate_of_another(rate, scores):
    """Of n + 1 clean scores any is the other one, equally often; with the largest of them at least one is above."""
    found, count = threshold_at(scores, rate), len(scores) + 1

    def above(threshold: float) -> Fraction:
        return Fraction(1 + sum(score > threshold for score in scores), count)

    assert above(found) <= max(Fraction(str(rate)), Fraction(1, count))
    assert all(above(lower) > Fraction(str(rate)) for lower in scores if lower < found)
    assert rate_above(scores, found) == pytest.approx(float(above(found) * count - 1) / len(scores))
