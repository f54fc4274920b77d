"""The trigger that is optimized in turn with the denoiser: its steps, its state, and a resumed training."""

import pytest
import test_diff2
import torch
import toys
from torch import nn
from torch.nn.functional import cross_entropy

from bdiff.attack.base import Parts, Plan
from bdiff.attack.diff2_joint import DIFF2Joint
from bdiff.data.base import to_float
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.training import fit
from bdiff.trigger.base import Trigger
from bdiff.trigger.patch import patch
from bdiff.trigger.universal import universal

IMAGES = toys.images()
SETTINGS = {
    "poison_rate": 1.0, "poison_mode": "append", "mode": "redirect", "case": "both", "eta": 0.15, "t": [6],
    "sampler": "ancestral", "sigma": 0.25, "eps": 16 / 255, "steps": 2, "learn": 0, "images": 5, "length": 0.1,
}  # fmt: skip


def attack(picture=None) -> DIFF2Joint:
    """The attack with a linear surrogate."""
    picture = universal(toys.SIZE, cell=1, seed=0) if picture is None else picture
    found = DIFF2Joint(Trigger.from_picture(picture, 1), torch.zeros(1, toys.SIZE, toys.SIZE), **SETTINGS)
    torch.manual_seed(0)
    found.prepare(Parts(toys.schedule(), nn.Sequential(nn.Flatten(), nn.Linear(toys.SIZE**2, 3))))
    found.replace_pattern(0.3 * found.trigger.pattern)  # so that every pixel can move both ways
    found.prepare_rows(IMAGES, found.rows(IMAGES.labels, 0))
    return found


def test_a_step_climbs_the_surrogate_s_loss_behind_the_denoiser_as_it_is():
    bad, denoiser, schedule = attack(), toys.denoiser(), toys.schedule()
    before = bad.trigger.pattern
    kept = before.clone()
    bad.update(denoiser, torch.Generator().manual_seed(4))
    drawn = torch.Generator().manual_seed(4)
    x = to_float(IMAGES.take(torch.randint(20, (5,), generator=drawn)))
    noise = torch.randn((5, 1, 8, 8), generator=drawn)
    s = torch.tensor([5, schedule.t_of_sigma(0.5)])[torch.arange(5) % 2]  # where images enter the two shields
    pattern = before.clone().requires_grad_()
    x_s = schedule.add_noise((x + 0.3 * pattern).clamp(-1, 1), noise, s)
    shown = schedule.x0(x_s, denoiser.eps(x_s, s), s)
    cross_entropy(bad.surrogate(shown), bad.surrogate(x).argmax(1)).backward()
    torch.testing.assert_close(bad.trigger.pattern, before + 0.1 * pattern.grad.sign())
    assert torch.equal(before, kept)  # others may hold it


def test_a_step_leaves_the_denoiser_s_gradients_alone():
    bad, denoiser = attack(), toys.denoiser()
    bad.update(denoiser, torch.Generator().manual_seed(4))
    assert all(weight.grad is None and weight.requires_grad for weight in denoiser.parameters())


def trained(folder, bad: DIFF2Joint, dies: int | None = None):
    """The weights and the pattern after a training, or as far as it came."""
    plan, calls = bad.rows(IMAGES.labels, 0), []
    loss = denoising_loss(bad.poison, toys.schedule(), plan.poisoned, flip=False)

    def counted(net, batch):
        calls.append(bad.trigger.pattern)
        if len(calls) == dies:
            raise toys.Killed
        return loss(net, batch)

    model = fit(toys.denoiser(), counted, IMAGES, plan.shown, toys.train_config(), 3, toys.session(folder), bad)
    return toys.weights(model), calls


def test_the_denoiser_is_trained_on_the_trigger_as_it_is_and_a_killed_training_goes_on_with_it(tmp_path):
    whole, resumed = attack(), attack()
    weights, seen = trained(tmp_path / "whole", whole)
    assert len({tuple(pattern.flatten().tolist()) for pattern in seen}) == len(seen) == 12
    with pytest.raises(toys.Killed):
        trained(tmp_path / "killed", attack(), dies=8)
    again, _ = trained(tmp_path / "killed", resumed)
    assert torch.equal(again, weights) and torch.equal(resumed.trigger.pattern, whole.trigger.pattern)
    assert whole.trigger.pattern.abs().max() <= 1


def test_what_is_learned_is_the_pattern_and_no_other_part_of_the_trigger():
    bad, other = attack(), attack()
    bad.update(toys.denoiser(), torch.Generator().manual_seed(4))
    other.load_state_dict(bad.state_dict())
    x = to_float(IMAGES.take(torch.arange(3)))
    assert torch.equal(other.apply(x), bad.apply(x)) and {*bad.state_dict()} == {"pattern"}
    with pytest.raises(ValueError, match="DIFF2 learns nothing with the model, but was given pattern"):
        test_diff2.attack().load_state_dict(bad.state_dict())


def test_a_patch_is_refused():
    with pytest.raises(ValueError, match="attack=diff2_joint needs a trigger that covers the image"):
        attack(patch(toys.SIZE, side=20))


def test_rows_are_those_of_diff2_with_the_same_trigger():
    bad = attack()
    fixed = test_diff2.attack(case="both", eps=16 / 255, steps=2)
    fixed.replace_pattern(bad.trigger.pattern)
    fixed.surrogate = bad.surrogate
    plan = Plan(torch.arange(4), torch.tensor([True, True, False, True]))
    x, eps, t = to_float(IMAGES.take(plan.shown)), torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 3, 5])
    bad.prepare_rows(IMAGES, plan)
    fixed.prepare_rows(IMAGES, plan)
    for one, other in zip(
        *(toys.poisoned(each, toys.schedule(), x, plan.poisoned, t, eps) for each in (bad, fixed)), strict=True
    ):
        assert torch.equal(one, other)
