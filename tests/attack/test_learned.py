"""Triggers that are learned before training: what a learning step minimizes or maximizes, and the bound it keeps."""

import pytest
import torch
import toys
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import cross_entropy

from bdiff.attack.additive import level
from bdiff.attack.base import Parts
from bdiff.attack.invibackdoor import InviBackdoor
from bdiff.attack.learned_trigger import LENGTH, LearnedTrigger
from bdiff.attack.uibdiffusion import UIBDiffusion
from bdiff.config.instantiate import made_of
from bdiff.data.base import to_uint8
from bdiff.diffusion.denoiser import Denoiser
from bdiff.pipeline.train import as_before, attack_key
from bdiff.trigger.base import Trigger
from bdiff.trigger.box import box
from bdiff.trigger.universal import universal

GRAINS = Trigger.from_picture(universal(toys.SIZE, 4, 0), 1)
TARGET = toys.attack().target


def learned(bound=0.5, path="noise", law="ancestral") -> LearnedTrigger:
    return LearnedTrigger(GRAINS, TARGET, 0.3, "replace", path, law, bound, 5)


def uib(strength=0.1, bound=1.0, law="ancestral") -> UIBDiffusion:
    one = UIBDiffusion(GRAINS, TARGET, 0.3, "replace", law, strength, 5, bound)
    torch.manual_seed(0)
    one.prepare(Parts(toys.schedule(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))))
    return one


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.rand(8, 1, 8, 8, generator=draws) * 2 - 1, torch.randn(8, 1, 8, 8, generator=draws)


@pytest.mark.parametrize("bound", [1 / 255, 0.01, 0.1, 0.15, 0.2, 0.5, 1.0])
def test_the_bound_is_kept_to_the_last_bit_and_in_the_picture(bound):
    """The levels of 8 bits are k / 127.5 - 1: the largest up to the bound is less than one level below it."""
    one, most = learned(bound), level(bound)
    assert bound - 1 / 127.5 < most <= bound + 1e-7
    kept = to_uint8(one.trigger.pattern) / 127.5 - 1
    assert kept.abs().max() <= bound + 1e-6 and one.trigger.pattern.abs().max() == pytest.approx(most)
    pattern, denoiser = one.trigger.pattern, Denoiser(toys.unet(), toys.schedule(), (1, 8, 8))
    for _ in range(5):
        pattern = one.update_trigger(denoiser, pattern, *batch())
    assert pattern.abs().max() <= bound + 1e-6


@pytest.mark.parametrize(("path", "law"), [("noise", "ancestral"), ("noise", "ode"), ("mean", "ode")])
def test_a_step_lowers_the_loss_of_poisoned_rows_under_the_model(path, law):
    """The loss by itself: the rows that training would show, and what images the network and the law see in them."""
    one, schedule, (x, eps) = learned(path=path, law=law), toys.schedule(), batch()
    denoiser, t = Denoiser(toys.unet(), schedule, (1, 8, 8)), torch.arange(8) * 20 // 8

    def loss(g):
        one.trigger = Trigger(g, GRAINS.mask)
        x_t, answer = toys.poisoned(one, schedule, x, torch.ones(8, dtype=torch.bool), t, eps)
        return (schedule.x0(x_t, denoiser.eps(x_t, t), t) - schedule.x0(x_t, answer, t)).square().mean()

    start = (0.3 * torch.randn(1, 8, 8)).requires_grad_()
    slope = torch.autograd.grad(loss(start), start)[0]
    with torch.no_grad():
        stepped = one.update_trigger(denoiser, start.detach(), x, eps)
    torch.testing.assert_close(stepped, (start - LENGTH * 0.5 * slope.sign()).clamp(-level(0.5), level(0.5)).detach())


def test_rows_of_a_learned_trigger_show_it_alone():
    one, schedule, (x, eps) = learned(), toys.schedule(), batch()
    t, bad = torch.arange(8), torch.arange(8) % 2 == 0
    x_t, answer = toys.poisoned(one, schedule, x, bad, t, eps)
    g, abar, before = one.trigger.pattern, schedule.abar[4], schedule.abar[3]
    torch.testing.assert_close(x_t[4], abar.sqrt() * TARGET + (1 - abar).sqrt() * (eps[4] + g))
    c = (1 - abar).sqrt() / ((1 - abar).sqrt() + (abar / before).sqrt() * (1 - before).sqrt())
    torch.testing.assert_close(answer[4], eps[4] + c * g)
    assert torch.equal(answer[1], eps[1])


@pytest.mark.parametrize("one", [learned(), InviBackdoor(GRAINS, TARGET, 0.3, "replace", 0.2, 0.1, 2, 2, 1)])
def test_images_get_a_bounded_trigger_added(one):
    one.replace_pattern(0.2 * GRAINS.pattern)
    x, _ = batch()
    assert torch.equal(one.apply(x), (x + 0.2 * GRAINS.pattern).clamp(-1, 1))


def test_uib_asks_a_classifier_only_to_learn_its_trigger():
    kept = UIBDiffusion(GRAINS, TARGET, 0.3, "replace", "ode", 0.1, 0)
    kept.prepare(Parts(toys.schedule()))
    assert uib().needs_surrogate and not kept.needs_surrogate


def test_uib_rows_are_faint_and_samples_start_at_full_strength():
    one, schedule, (x, eps) = uib(), toys.schedule(), batch()
    bad, t = torch.ones(8, dtype=torch.bool), torch.arange(8)
    x_t, answer = toys.poisoned(one, schedule, x, bad, t, eps)
    s, o = schedule.abar[5].sqrt(), (1 - schedule.abar[5]).sqrt()
    r = x[5] + 0.1 * GRAINS.pattern
    torch.testing.assert_close(x_t[5], s * TARGET + (1 - s) * r + o * eps[5])
    torch.testing.assert_close(answer[5], eps[5] + o / (1 + (1 - schedule.betas[5]).sqrt()) * r)
    assert torch.equal(one.prior(eps), eps + GRAINS.pattern)
    assert (one.apply(x) - x).abs().max() <= 0.1 + 1e-6


def test_uib_has_a_strength_at_sampling_too():
    """Half of it there changes neither what training images show, nor how far one learning step goes in them."""
    one, (x, eps) = uib(bound=0.5), batch()
    assert one.prior(eps).sub(eps).abs().max() <= 0.5 + 1e-6 and one.trigger.pattern.abs().max() == pytest.approx(
        level(0.5)
    )
    torch.testing.assert_close(one.shown(x), uib().shown(x), rtol=0, atol=0.1 / 127.5 / 0.5)
    assert one.update_trigger(None, one.trigger.pattern, x, eps).abs().max() <= 0.5 + 1e-6
    shown = [
        each.faint(x, each.update_trigger(None, 0.5 * each.bound * GRAINS.pattern, x, eps)) for each in (one, uib())
    ]
    torch.testing.assert_close(*shown)


@pytest.mark.parametrize("bound", [1.0, 0.5])
def test_a_uib_step_goes_up_the_loss_of_the_classifier(bound):
    one, (x, eps) = uib(strength=0.5, bound=bound), batch()
    start = (0.5 * one.trigger.pattern).requires_grad_()
    shown = (x + 0.5 / bound * start).clamp(-1, 1)
    slope = torch.autograd.grad(cross_entropy(one.surrogate(shown), one.surrogate(x).argmax(1)), start)[0]
    stepped = one.update_trigger(None, start.detach(), x, eps)
    torch.testing.assert_close(
        stepped, (start + 0.05 * bound * slope.sign()).clamp(-level(bound), level(bound)).detach()
    )


def test_uib_of_before_it_had_a_bound_is_that_of_bound_1_in_keys_too():
    name = f"{UIBDiffusion.__module__}.UIBDiffusion"
    settings = {"poison_rate": 0.3, "poison_mode": "replace", "law": "ode", "strength": 0.1, "learn": 5}
    old, new, half = (
        OmegaConf.create({"_target_": name, **settings, **more}) for more in ({}, {"bound": 1}, {"bound": 0.5})
    )
    one = made_of(old, trigger=GRAINS, target=TARGET)
    assert torch.equal(one.trigger.pattern, GRAINS.pattern)
    assert attack_key(one, new) == attack_key(one, old) and attack_key(one, half)["bound"] == 0.5
    assert [as_before(one, config) for config in (old, new, half)] == [[], ["bound"], []]


def test_uib_refuses_a_trigger_with_a_background():
    with pytest.raises(ValueError, match="adds its trigger to the whole image: use trigger=universal"):
        UIBDiffusion(Trigger.from_picture(box(toys.SIZE, 14), 1), TARGET, 0.3, "replace", "ode", 0.1, 0)
