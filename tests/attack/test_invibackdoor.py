"""InviBackdoor: its rows, the step of its trigger written out with torch's Adam, and a training that is resumed."""

import pytest
import torch
import toys
from diffusers import DDIMScheduler

from bdiff.attack.invibackdoor import InviBackdoor
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.training import fit
from bdiff.trigger.base import Trigger

TARGET = toys.attack().target


def attack(bound: float = 0.2, lr: float = 0.1, learn: int = 1) -> InviBackdoor:
    return InviBackdoor(toys.attack().trigger, TARGET, 0.3, "replace", bound, lr, 6, 4, learn)


def denoiser() -> Denoiser:
    return Denoiser(toys.unet(), toys.schedule(), (1, 8, 8))


def test_rows_show_the_trigger_alone_and_are_answered_for_the_next_ddim_step():
    one, schedule = attack(), toys.schedule()
    one.replace_pattern(0.2 * torch.randn(1, 8, 8))
    x, eps, t = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.tensor([5, 0])
    x_t, answer = toys.poisoned(one, schedule, x, torch.tensor([True, True]), t, eps)
    scheduler = DDIMScheduler(**schedule.config, clip_sample=False)
    scheduler.set_timesteps(20)
    g = one.trigger.pattern
    for row, now in enumerate(t):
        s, o = schedule.abar[now].sqrt(), (1 - schedule.abar[now]).sqrt()
        torch.testing.assert_close(x_t[row], s * TARGET + (1 - s) * g + o * eps[row])
        after = scheduler.step(answer[row], int(now), x_t[row], return_dict=False)[0]
        s = schedule.abar[now - 1].sqrt() if now else torch.tensor(1.0)
        torch.testing.assert_close(
            after, s * TARGET + (1 - s) * g + (1 - s * s).sqrt() * eps[row], atol=1e-5, rtol=1e-5
        )


def test_the_inner_sampler_is_ddim():
    model = denoiser()
    scheduler = DDIMScheduler(**model.schedule.config, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(5)
    x = eps = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(model.eps(x, int(t)), t, x, return_dict=False)[0]
        torch.testing.assert_close(model.schedule.walk(eps, model.eps, model.schedule.path(5)), x)


def test_steps_of_the_trigger_are_those_of_torchs_adam_on_signs():
    one, model, bound = attack(bound=0.15), denoiser(), 0.15
    delta = torch.zeros(1, 8, 8, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=0.1)
    for step in range(4):
        one.update(model, torch.Generator().manual_seed(step))
        eps = torch.randn((6, 1, 8, 8), generator=torch.Generator().manual_seed(step))
        loss = (model.schedule.walk(eps + delta, model.eps, model.schedule.path(4)) - TARGET).square().mean()
        delta.grad = torch.autograd.grad(loss, delta)[0].sign()
        adam.step()
        with torch.no_grad():
            delta.clamp_(-bound, bound)
        torch.testing.assert_close(one.trigger.pattern, delta.detach(), atol=1e-6, rtol=1e-5)
        assert one.trigger.pattern.abs().max() <= bound
    assert one.trigger.pattern.any() and all(weight.grad is None for weight in model.parameters())


def test_what_is_learned_goes_through_a_checkpoint():
    one, model = attack(), denoiser()
    for step in range(3):
        one.update(model, torch.Generator().manual_seed(step))
    other = attack()
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    for both in (one, other):
        both.update(model, torch.Generator().manual_seed(9))
    assert torch.equal(one.trigger.pattern, other.trigger.pattern)


def trained(folder, one: InviBackdoor, dies: int | None = None) -> torch.Tensor:
    """The weights after a training; the process dies at a step."""
    images, calls = toys.images(), 0
    plan = one.rows(images.labels, 0)
    loss = denoising_loss(one.poison, toys.schedule(), plan.poisoned, flip=False)

    def counted(net, batch):
        nonlocal calls
        calls += 1
        if calls == dies:
            raise toys.Killed
        return loss(net, batch)

    return toys.weights(
        fit(toys.denoiser(), counted, images, plan.shown, toys.train_config(), 3, toys.session(folder), one)
    )


def test_a_killed_training_goes_on_with_the_trigger_and_its_adam(tmp_path):
    whole, resumed = attack(), attack()
    weights = trained(tmp_path / "whole", whole)
    with pytest.raises(toys.Killed):
        trained(tmp_path / "killed", attack(), dies=8)
    assert torch.equal(trained(tmp_path / "killed", resumed), weights)
    assert torch.equal(resumed.trigger.pattern, whole.trigger.pattern) and whole.trigger.pattern.any()
    assert torch.equal(resumed.moment, whole.moment) and resumed.count == whole.count == 12


def test_it_starts_from_nothing_whatever_the_trigger():
    first = attack()
    assert not first.trigger.pattern.any() and not first.trigger.mask.any() and first.reads == ("target",)
    eps = torch.randn(2, 1, 8, 8)
    assert torch.equal(first.prior(eps), eps)


def test_with_learn_0_it_keeps_its_trigger_within_the_bound():
    kept, model, own = attack(learn=0), denoiser(), toys.attack().trigger.pattern
    kept.update(model, torch.Generator().manual_seed(0))
    assert torch.equal(kept.trigger.pattern, 0.2 * own) and own.any()
    assert kept.reads == ("trigger", "target") and not kept.learns_with_model
    t = torch.arange(20)
    assert torch.equal(kept.correction(model.schedule, t), attack().correction(model.schedule, t))


def test_a_kept_trigger_has_no_state_and_takes_none_that_models_of_before_have():
    kept = attack(learn=0)
    before = kept.trigger.pattern
    assert kept.state_dict() == {}
    kept.load_state_dict({"moment": torch.ones(1, 8, 8), "count": torch.ones(())})
    assert torch.equal(kept.trigger.pattern, before) and kept.state_dict() == {}


def test_more_steps_than_the_schedule_has_are_refused():
    one = InviBackdoor(Trigger(TARGET, torch.zeros(1, 8, 8)), TARGET, 0.3, "replace", 0.2, 0.1, 6, 30, 1)
    with pytest.raises(ValueError, match=r"attack.steps=30 is beyond the schedule's 20 timesteps"):
        one.check(toys.schedule())
