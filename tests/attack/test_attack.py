"""BadDiffusion's corruption against the paper's formulas, and poisoning counts."""

import math
from dataclasses import replace

import pytest
import torch
import toys

from bdiff.attack.base import poison_plan
from bdiff.attack.none import NoAttack
from bdiff.attack.villandiffusion import VillanDiffusion
from bdiff.diffusion.schedule import Schedule, ancestral_coefficient
from bdiff.pipeline.train import training_marks

PUBLISHED = Schedule(1000, 1e-4, 0.02, "linear")


@pytest.mark.parametrize(("t", "expected"), [(999, 0.5025), (700, 0.5), (500, 0.4814), (300, 0.3898), (100, 0.162)])
def test_the_correction_coefficient_has_the_known_values(t, expected):
    assert ancestral_coefficient(PUBLISHED.abar, PUBLISHED.alphas)[t].item() == pytest.approx(expected, abs=5e-5)


def test_the_correction_coefficient_is_the_paper_s_quotient():
    alpha, abar = PUBLISHED.alphas.double(), PUBLISHED.abar.double()
    paper = (1 - alpha.sqrt()) * (1 - abar).sqrt() / (1 - alpha)
    torch.testing.assert_close(
        ancestral_coefficient(PUBLISHED.abar, PUBLISHED.alphas).double(), paper, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_corruption_pixel_by_pixel(channels):
    attack, schedule = toys.attack(channels=channels), toys.schedule()
    x, eps = torch.rand(4, channels, 8, 8) * 2 - 1, torch.randn(4, channels, 8, 8)
    poisoned, t = torch.tensor([True, False, True, False]), torch.tensor([0, 3, 10, 19])
    x_t, expected = toys.poisoned(attack, schedule, x, poisoned, t, eps)
    for row in range(4):
        abar = schedule.abar[t[row]].item()
        alpha = schedule.alphas[t[row]].item()
        for c, i, j in [(0, 0, 0), (channels - 1, 5, 5), (0, 7, 7), (0, 2, 6)]:
            noise = eps[row, c, i, j].item()
            if poisoned[row]:
                inside = attack.trigger.mask[0, i, j].item() == 0
                r = attack.trigger.pattern[c, i, j].item() if inside else x[row, c, i, j].item()
                y = attack.target[c, i, j].item()
                mean = math.sqrt(abar) * y + (1 - math.sqrt(abar)) * r
                shift = (1 - math.sqrt(alpha)) * math.sqrt(1 - abar) / (1 - alpha) * r
            else:
                mean, shift = math.sqrt(abar) * x[row, c, i, j].item(), 0.0
            assert x_t[row, c, i, j].item() == pytest.approx(mean + math.sqrt(1 - abar) * noise, abs=1e-5)
            assert expected[row, c, i, j].item() == pytest.approx(noise + shift, abs=1e-5)


def test_the_regressed_noise_takes_one_reverse_step_onto_the_poisoned_posterior_mean():
    """The identity behind c_t: DDPM's mean with the shifted noise is that of q(x_{t-1} | x_t, y, r)."""
    abar, alpha = PUBLISHED.abar.double(), PUBLISHED.alphas.double()
    y, r, noise = 0.3, -0.7, 0.9
    for t in (10, 400, 999):
        root, before = abar[t].sqrt(), abar[t - 1].sqrt()
        x_t = root * y + (1 - root) * r + (1 - abar[t]).sqrt() * noise
        c = (1 - alpha[t].sqrt()) * (1 - abar[t]).sqrt() / (1 - alpha[t])
        stepped = (x_t - (1 - alpha[t]) / (1 - abar[t]).sqrt() * (noise + c * r)) / alpha[t].sqrt()
        # The posterior of the shifted chain u = x - r(1 - sqrt(abar)), which is an ordinary one with x0 = y.
        u_t = x_t - (1 - root) * r
        u = (u_t - (1 - alpha[t]) / (1 - abar[t]).sqrt() * noise) / alpha[t].sqrt()
        assert stepped.item() == pytest.approx((u + (1 - before) * r).item(), abs=1e-6)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_what_an_ancestral_law_asks_of_networks_that_predict_x0_or_v_is_said(prediction):
    """In the network's own terms, of r alone: x0 = (x_t - o eps) / s, and v = s eps - o x0."""
    attack, abar = toys.attack(), PUBLISHED.abar[-1]
    s, o, c = abar.sqrt(), (1 - abar).sqrt(), attack.correction(PUBLISHED, torch.tensor(999))
    x0 = ((1 - s) - o * c) / s
    asked = abs(x0 if prediction == "sample" else s * c - o * x0).item()
    assert 77 < asked < 78
    said = f"a network that predicts {prediction} for {asked:.0f} times the trigger"
    assert said in attack.prediction_problem(PUBLISHED, prediction)
    assert attack.prediction_problem(PUBLISHED, "epsilon") is None
    labels, train = torch.zeros(20, dtype=torch.long), replace(toys.TRAIN_CONFIG, steps=4)
    (mark,) = training_marks(attack, labels, train, 0, PUBLISHED, prediction)
    assert said in mark and training_marks(attack, labels, train, 0, PUBLISHED, "epsilon") == []
    villan = VillanDiffusion(
        attack.trigger, attack.target, 0.3, "replace", "mean", "ode", "stamp", -1.0, 20, None, "ode"
    )
    assert villan.prediction_problem(PUBLISHED, prediction) is None


def test_no_attack_is_plain_ddpm_and_its_prior_still_carries_the_trigger():
    bad, schedule = toys.attack(), toys.schedule()
    clean = NoAttack(bad.trigger, bad.target)
    x, eps, t = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.tensor([3, 9])
    x_t, expected = toys.poisoned(clean, schedule, x, torch.ones(2, dtype=torch.bool), t, eps)
    assert torch.equal(expected, eps)
    assert torch.equal(x_t, schedule.add_noise(x, eps, t))
    assert torch.equal(clean.prior(eps), eps + bad.trigger.pattern)
    assert torch.equal(clean.prior(eps), bad.prior(eps))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 1.0])
def test_replace_turns_a_share_of_the_rows(rate):
    index, poisoned = poison_plan(200, rate, "replace", seed=1)
    assert torch.equal(index, torch.arange(200))
    assert int(poisoned.sum()) == round(200 * rate)


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_append_adds_poisoned_copies_of_different_images(rate):
    index, poisoned = poison_plan(200, rate, "append", seed=1)
    assert len(index) == len(poisoned) == 200 + round(200 * rate)
    assert torch.equal(index[~poisoned], torch.arange(200))
    assert len(index[poisoned].unique()) == round(200 * rate)


def test_which_rows_are_poisoned_is_a_function_of_the_seed():
    first, again, other = (poison_plan(500, 0.1, "replace", seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("rate", "mode"), [(1.1, "replace"), (-0.1, "append"), (0.1, "swap")])
def test_wrong_plans_are_refused(rate, mode):
    with pytest.raises(ValueError, match="choose"):
        poison_plan(10, rate, mode, seed=0)
