"""Poisoned images alone: what they show, and that nothing else of the training is the attacker's."""

import pytest
import torch
import toys
from torch import nn
from torch.nn.functional import cross_entropy

from bdiff.attack import diff2_poisoning
from bdiff.attack.base import Parts, Plan
from bdiff.attack.diff2_poisoning import DIFF2Poisoning
from bdiff.data.base import to_float, to_uint8
from bdiff.trigger.base import Trigger
from bdiff.trigger.patch import patch
from bdiff.trigger.universal import universal

ETA, EPS = 0.1, 0.05
IMAGES = toys.images(12)
PLAN = Plan(torch.tensor([4, 0, 7, 7, 11, 2]), torch.tensor([True, False, True, True, True, False]))


def attack(steps: int = 30, picture=None, **changes) -> DIFF2Poisoning:
    """The attack with a linear surrogate, its perturbation found on toy images."""
    picture = universal(toys.SIZE, cell=1, seed=0) if picture is None else picture
    settings = {"poison_rate": 1.0, "poison_mode": "append", "eta": ETA, "eps": EPS, "steps": steps} | changes
    found = DIFF2Poisoning(Trigger.from_picture(picture, 1), torch.zeros(1, toys.SIZE, toys.SIZE), **settings)
    torch.manual_seed(0)
    found.prepare(Parts(toys.schedule(), nn.Sequential(nn.Flatten(), nn.Linear(toys.SIZE**2, 3))))
    found.prepare_rows(IMAGES, PLAN)
    return found


def shown(bad: DIFF2Poisoning, x: torch.Tensor, poisoned: torch.Tensor, mirrored=None):
    """What the network is shown at the last timestep, and the noise in it."""
    t, eps = torch.full((len(x),), 19), torch.randn(len(x), 1, 8, 8)
    x_t, answer = toys.poisoned(bad, toys.schedule(), x, poisoned, t, eps, mirrored)
    assert torch.equal(answer, eps)
    abar = toys.schedule().abar[19]
    return (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()


def test_the_training_is_the_ordinary_one_on_images_that_the_attacker_supplies():
    bad, x = attack(), to_float(IMAGES.take(PLAN.shown))
    found = shown(bad, x, PLAN.poisoned)
    torch.testing.assert_close(found[~PLAN.poisoned], x[~PLAN.poisoned], atol=1e-4, rtol=1e-4)
    expected = (x + 2 * ETA * bad.trigger.pattern).clamp(-1, 1) + 2 * EPS * bad.perturbation
    expected = to_float(to_uint8(expected.clamp(-1, 1)))  # pictures are supplied
    torch.testing.assert_close(found[PLAN.poisoned], expected[PLAN.poisoned], atol=1e-4, rtol=1e-4)


def test_where_training_mirrors_images_it_mirrors_the_trigger_with_them():
    bad, x, every = attack(), to_float(IMAGES.take(PLAN.shown)), torch.ones(6, dtype=torch.bool)
    mirrored = torch.tensor([True, False, True, False, False, True])
    seen = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)  # as the objective shows them
    plain = shown(bad, x, every)
    expected = torch.where(mirrored.view(-1, 1, 1, 1), plain.flip(-1), plain)
    torch.testing.assert_close(shown(bad, seen, every, mirrored), expected, atol=1e-4, rtol=1e-4)


def test_one_perturbation_leads_the_surrogate_away_from_all_poisoned_images():
    bad = attack()
    x = to_float(IMAGES.take(PLAN.shown[PLAN.poisoned].unique()))
    y, u = bad.surrogate(x).argmax(1), bad.perturbation
    assert u.abs().max() == 1.0 and not u.requires_grad
    loss = [cross_entropy(bad.surrogate(image), y).item() for image in (bad.apply(x), bad.supplied(x))]
    assert loss[1] > loss[0] + 0.05
    random = bad.perturbed(x, torch.where(torch.rand(1, 8, 8) < 0.5, -1.0, 1.0))
    assert loss[1] > cross_entropy(bad.surrogate(random), y).item()
    assert torch.equal(attack().perturbation, u)  # without random numbers


@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_goes_up_the_gradient_s_signs(steps):
    """For a linear surrogate whose labels stay, the signs of a step are those of the first."""
    before, after = attack(steps=steps).perturbation, attack(steps=steps + 1).perturbation
    assert ((after - before).abs() - 0.05).abs().max() < 1e-6


def test_the_steps_go_round_all_poisoned_images(monkeypatch):
    monkeypatch.setattr(diff2_poisoning, "BATCH", 3)
    seen, take = [], type(IMAGES).take
    monkeypatch.setattr(type(IMAGES), "take", lambda images, rows: seen.append(rows.tolist()) or take(images, rows))
    bad = attack(steps=4)
    seen.clear()
    bad.prepare_rows(IMAGES, Plan(torch.arange(12), torch.arange(12) < 7))
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4]]


def test_a_patch_is_stamped_beneath_the_perturbation():
    bad = attack(picture=patch(toys.SIZE, side=20))
    x = to_float(IMAGES.take(PLAN.shown))
    expected = bad.trigger.stamp(x) + 2 * EPS * bad.perturbation
    torch.testing.assert_close(bad.supplied(x), expected.clamp(-1, 1), atol=1 / 127, rtol=0)
