"""Conformal thresholds against p values counted in another way, exact fractions and their promise; rates by hand."""

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from bdiff.metric.conformal import Rates, fewest, left_out, rates, threshold

RATES = [0.01, 0.05, 0.1, 0.29, 1 / 3, 0.5, 0.9]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("count", [1, 2, 9, 10, 19, 20, 99])
def test_a_threshold_flags_what_has_a_p_value_of_at_most_the_rate(rate, count):
    clean = np.random.default_rng(count).normal(size=count).round(1).tolist()  # rounded, so that there are ties
    limit = threshold(clean, rate)
    tried = [*clean, *(score + shift for score in clean for shift in (-0.05, 0.05, 1e-12)), 100.0]
    exact = Fraction(str(rate)) if rate != 1 / 3 else Fraction(1, 3)
    for score in tried:
        small = Fraction(1 + len([other for other in clean if other >= score]), count + 1) <= exact
        assert (score >= limit) == small
    assert math.isinf(limit) == (Fraction(1, count + 1) > exact) == (count < fewest(rate))


@pytest.mark.parametrize(("rate", "count"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1), (1 / 3, 2), (0.3, 3)])
def test_the_fewest_clean_models(rate, count):
    assert fewest(rate) == count
    scores = [float(number) for number in range(count)]
    assert threshold(scores, rate) < math.inf and threshold(scores[1:], rate) == math.inf


def test_a_clean_model_of_the_same_kind_is_flagged_at_the_rate_at_most():
    """The promise: over all orders of five models, the last is flagged by the others' threshold as often as said."""
    orders = [*permutations([0.1, 0.5, 0.7, 0.8, 0.95])]
    for rate, promised in ((0.2, 1 / 5), (0.3, 1 / 5), (0.4, 2 / 5), (0.19, 0)):
        flagged = [last >= threshold(others, rate) for *others, last in orders]
        assert sum(flagged) / len(orders) == pytest.approx(promised)


def test_rates_of_a_threshold_on_other_models_by_hand():
    found = rates([0.1, 0.2, 0.3], [0.25, 0.35], [0.3, 0.9, 0.31], 0.25)  # none of three may reach it: above 0.3
    limit = math.nextafter(0.3, 1)
    assert found == Rates(limit, 3, 2, 3, 1 / 2, 2 / 3, pytest.approx(4 / 6))
    assert rates([0.1], [0.2], [], 0.25) == Rates(math.inf, 1, 1, 0, 0.0, None, None)


def test_a_data_set_is_left_out_of_its_own_threshold():
    clean = {"digits": [0.1, 0.2], "letters": [0.9, 0.15], "photos": [0.3]}
    found = left_out(clean, {"digits": [0.95, 0.5], "faces": [0.6]}, 0.25)
    assert {name: one.calibrated for name, one in found.items()} == {"digits": 3, "letters": 3, "photos": 4, "faces": 5}
    digits, letters = found["digits"], found["letters"]
    assert (digits.threshold, digits.fpr, digits.tpr) == (math.nextafter(0.9, 1), 0, 1 / 2)
    assert (letters.threshold, letters.fpr, letters.tpr) == (math.nextafter(0.3, 1), 1 / 2, None)
    assert (found["faces"].fpr, found["faces"].tpr, found["faces"].threshold) == (None, 0, math.nextafter(0.9, 1))
