"""Thresholds, rates and ROC areas against numbers worked out by hand, and against scikit-learn and numpy."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bdiff.report.detection import Detection, detection, threshold


def test_the_threshold_is_three_sample_deviations_above_the_mean():
    assert threshold([1, 2, 3]) == pytest.approx(5)  # mean 2, deviations 1 0 1: variance 2 / 2
    assert threshold([-4, -4, -1]) == pytest.approx(-3 + 3 * 3**0.5)  # variance (1 + 1 + 4) / 2


def test_rates_and_area_by_hand():
    found = detection([1, 2, 3], [5, 4.9, 9, 2.5])  # from the threshold 5 on: two of four
    assert (found.threshold, found.tpr, found.tnr) == (5, 0.5, 1)
    assert found.accuracy == pytest.approx(5 / 7)
    assert found.auroc == pytest.approx(11 / 12)  # of 3 * 4 pairs only 2.5 against 3 is the wrong way round


def test_a_clean_model_has_no_say_in_the_threshold_that_it_meets():
    clean = [0, 1, 0, 1, 8]  # 8 meets 0.5 + 3 * sqrt(1 / 3) = 2.23; with itself it would meet 2 + 3 * 3.39
    found = detection(clean, [])
    assert found.threshold == pytest.approx(2 + 3 * 11.5**0.5)
    assert found.tnr == pytest.approx(4 / 5)
    assert found.tpr is None and found.auroc is None and found.accuracy is None


def test_fewer_than_three_clean_models_make_no_threshold():
    assert detection([0, 1], [2, 0.5]) == Detection(None, None, None, 0.75, None)
    assert detection([], [1]) == Detection(None, None, None, None, None)


def test_a_conformal_threshold_by_hand():
    clean = [0.1, 0.2, 0.3, 0.4]
    found = detection(clean, [0.35, 0.5], 0.25)  # one of five may be flagged: above 0.4; of the four, 0.4 meets 0.3
    assert (found.threshold, found.tpr, found.tnr, found.fpr) == (math.nextafter(0.4, 1), 1 / 2, 3 / 4, 1 / 4)
    assert found.accuracy == pytest.approx(4 / 6) and found.auroc == 7 / 8
    assert detection(clean[:2], [0.35], 0.25) == Detection(None, None, None, 1.0, None)
    last = detection(clean[:3], [0.35], 0.25)  # enough for a threshold, but not with one left out
    assert (last.threshold, last.tpr, last.tnr, last.fpr) == (math.nextafter(0.3, 1), 1, None, None)


@pytest.mark.parametrize("seed", range(5))
def test_random_scores_agree_with_scikit_learn_and_numpy(seed):
    draw = np.random.default_rng(seed)
    clean = draw.normal(size=10).round(1)  # rounded, so that there are ties
    backdoored = draw.normal(1, 2, size=20).round(1)
    found = detection(clean.tolist(), backdoored.tolist())
    scores, truth = np.concatenate([clean, backdoored]), np.repeat([0, 1], [10, 20])
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores), rel=1e-12)
    others = np.array([np.delete(clean, place) for place in range(10)])
    limits = others.mean(1) + 3 * others.std(1, ddof=1)
    hits = backdoored >= clean.mean() + 3 * clean.std(ddof=1)
    assert found.tnr == pytest.approx((clean < limits).mean())
    assert found.tpr == pytest.approx(hits.mean())
    assert found.accuracy == pytest.approx(((clean < limits).sum() + hits.sum()) / 30)
