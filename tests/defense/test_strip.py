"""The entropy check against entropies by hand, and its threshold against what it promises."""

import math

import pytest
import torch
from torch import Tensor

from bdiff.defense.shields.strip import entropies, threshold


def brightness(x: Tensor) -> Tensor:
    """Sure of label 0 for dark images, of label 1 for bright ones, in between as the logistic function says."""
    return torch.stack([torch.zeros(len(x)), 8 * x.mean((1, 2, 3))], 1)


def flat(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


def test_the_entropy_is_that_of_the_mean_prediction():
    inputs, clean, weight = (-0.6, 0.1), (0.5, -0.25, 0.75), 0.4
    expected = []
    for value in inputs:
        blends = [(1 - weight) * value + weight * other for other in clean]
        p = sum(1 / (1 + math.exp(-8 * blend)) for blend in blends) / 3
        expected.append(-p * math.log(p) - (1 - p) * math.log(1 - p))
    torch.testing.assert_close(entropies(brightness, flat(*inputs), flat(*clean), weight), torch.tensor(expected))


def test_a_label_that_survives_every_blend_has_no_entropy():
    """A trigger in the first pixel decides alone; sure as the classifier is, without it the blends disagree."""

    def backdoored(x: Tensor) -> Tensor:
        triggered = (x[:, 0, 0, 0] > 0.9).float()
        return torch.stack([1000 * triggered, 200 * x.mean((1, 2, 3))], 1)

    x = flat(0.0, 0.0).clone()
    x[1, 0, 0, 0] = 3.0
    found = entropies(backdoored, x, flat(-0.5, 0.5), 0.5)
    torch.testing.assert_close(found, torch.tensor([math.log(2), 0.0]))


@pytest.mark.parametrize(("rate", "expected"), [(0.1, 1.0), (0.2, 2.0), (0.55, 5.0)])
def test_the_threshold_is_the_order_statistic(rate, expected):
    assert threshold(torch.tensor([5.0, 2.0, 9.0, 1.0, 7.0, 3.0, 8.0, 4.0, 6.0]), rate) == expected


@pytest.mark.parametrize("ties", [False, True])
def test_clean_inputs_are_flagged_no_more_often_than_promised(ties):
    draws = torch.rand((3000, 40), generator=torch.Generator().manual_seed(0))
    if ties:
        draws = (draws * 8).floor()
    flagged = [float(row[0]) < threshold(row[1:], 0.1) for row in draws]
    share = sum(flagged) / len(flagged)
    assert share <= 0.1 + 3 * (0.1 * 0.9 / 3000) ** 0.5
    assert ties or share >= 0.1 - 3 * (0.1 * 0.9 / 3000) ** 0.5


def test_too_few_clean_inputs_are_refused_and_enough_are_named():
    with pytest.raises(ValueError, match=r"is too small for 18 clean inputs: use 19 or more"):
        threshold(torch.rand(18), 0.05)
    threshold(torch.rand(19), 0.05)
