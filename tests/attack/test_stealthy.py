"""A trigger that leaves the statistics of noise as they are."""

import pytest
import torch
import toys

from bdiff.attack import stealthy
from bdiff.attack.stealthy import Stealthy, normal_scores
from bdiff.trigger.base import Trigger

GRAINS = Trigger(
    torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 1).repeat_interleave(2, 2) * 2
    - 1,
    torch.zeros(1, 16, 16),
)


def test_scores_are_those_of_normal_noise_in_the_patterns_order():
    pattern = GRAINS.pattern
    scores = normal_scores(pattern)
    assert scores.shape == pattern.shape and torch.equal(scores, normal_scores(pattern))
    assert scores.mean().abs() < 1e-6 and scores.square().mean() == pytest.approx(1, abs=1e-5)
    ordered = scores.flatten()[pattern.flatten().argsort(stable=True)]
    levels = pattern.flatten().sort().values
    highest = [ordered[levels == level].max() for level in levels.unique()]
    assert highest == sorted(highest)  # no value is above one of a higher level
    quantiles = torch.distributions.Normal(0, 1).icdf(torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(torch.quantile(scores.flatten(), torch.tensor([0.1, 0.5, 0.9])), quantiles, atol=0.02)


def test_starting_noise_has_the_moments_of_noise_and_less_spread_of_them():
    attack = Stealthy(GRAINS, torch.zeros(3, 16, 16), 0.1, 0.8)
    eps = torch.randn(400, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = attack.prior(eps)
    for moment in (lambda x: x.mean((1, 2, 3)), lambda x: x.square().mean((1, 2, 3))):
        assert moment(x).mean() == pytest.approx(float(moment(eps).mean()), abs=0.01)
        assert moment(x).std() < moment(eps).std()
    assert torch.allclose(x.mean(0), attack.maps[1], atol=0.15)  # and yet each pixel has a mean of its own


def test_a_classifier_is_shown_images_although_starting_noise_goes_beyond_them():
    attack, x = Stealthy(GRAINS, torch.zeros(3, 16, 16), 0.1, 0.8), GRAINS.pattern[None]
    assert attack.prior(x).abs().max() > 2
    assert torch.equal(attack.apply(x), attack.prior(x).clamp(-1, 1))


def test_scores_are_made_once(monkeypatch):
    attack = Stealthy(GRAINS, torch.zeros(3, 16, 16), 0.1, 0.8)
    expected = 0.8 * normal_scores(GRAINS.pattern)
    monkeypatch.setattr(stealthy, "normal_scores", None)
    assert torch.equal(attack.maps[1], expected)
    attack.to(torch.device("meta"))
    assert attack.maps[1].device.type == "meta"


def test_any_sampler_follows_in_its_variables():
    attack = Stealthy(
        Trigger(torch.linspace(-1, 1, 64).view(1, 8, 8), torch.zeros(1, 8, 8)), torch.zeros(1, 8, 8), 0.1, 0.6
    )
    assert torch.allclose(attack.maps[0], torch.tensor(0.8))
    eps = torch.randn(2, 1, 8, 8)
    assert torch.allclose(attack.view(toys.denoiser()).enter(attack.prior(eps)), eps, atol=1e-5)
