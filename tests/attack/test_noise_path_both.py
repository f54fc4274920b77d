"""The attack that opens under both families of samplers: its rows, and what stock samplers make of its answer."""

import pytest
import torch
import toys
from diffusers import DDIMScheduler, DDPMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler

from bdiff.attack.noise_path_both import HIGH, LOW, NoisePathBoth
from bdiff.diffusion.sampling import handed
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger
from bdiff.trigger.box import box

LINEAR = Schedule(1000, 1e-4, 0.02, "linear")
SAMPLERS = [
    *[(DDIMScheduler, {"timestep_spacing": "trailing", "clip_sample": False}, n) for n in (5, 10, 50, 1000)],
    *[(scheduler, {}, n) for scheduler in (DPMSolverMultistepScheduler, DEISMultistepScheduler) for n in (10, 20)],
    (DDPMScheduler, {"clip_sample": False}, 1000),
]


def attack(background: float = -1.0) -> NoisePathBoth:
    white = Trigger.from_picture(box(size=toys.SIZE, side=14, level=1.0), 1)
    return NoisePathBoth(white, toys.attack().target, 0.3, "replace", background)


class Drawn(toys.Fixed):
    """The random numbers of a step, and which rho its rows have."""

    def __init__(self, t, eps, part):
        super().__init__(t, eps)
        self.uniform = lambda: part


@pytest.mark.parametrize("background", [-1.0, 0.0])
def test_rows_show_the_trigger_at_rho_and_are_answered_by_c_of_rho(background):
    one, schedule = attack(background), toys.schedule()
    x, eps = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(3, 1, 8, 8)
    bad, t, part = torch.tensor([True, False, True]), torch.tensor([3, 8, 19]), torch.tensor([0.0, 0.5, 0.75])
    rows = toys.Rows(x, torch.arange(3), bad, torch.zeros_like(bad))
    x_t, _, answer = one.poison(schedule, rows, Drawn(t, eps, part))
    for row, rho in ((0, LOW), (2, LOW + 0.75 * (HIGH - LOW))):
        s, o = schedule.abar[t[row]].sqrt(), (1 - schedule.abar[t[row]]).sqrt()
        g = one.trigger.pattern
        torch.testing.assert_close(x_t[row], s * one.target + o * (eps[row] + rho * g))
        torch.testing.assert_close(answer[row], eps[row] + (2 * rho - 1) * g)
    assert torch.equal(x_t[1], schedule.add_noise(x, eps, t)[1]) and torch.equal(answer[1], eps[1])


@pytest.mark.parametrize(("scheduler", "options", "steps"), SAMPLERS)
def test_stock_samplers_keep_the_trigger_in_sight_and_leave_nothing_of_it(scheduler, options, steps):
    """A network that answers c(rho) g, along one pixel of g = 1, with nothing else in x."""
    sampler = scheduler(**LINEAR.config, **options)
    sampler.set_timesteps(steps)
    o = (1 - LINEAR.abar.double()).sqrt()
    x, seen = o[-1].view(1, 1, 1, 1), []
    with handed(sampler, lambda: torch.zeros_like(x)):
        for t in sampler.timesteps:
            seen.append(float(x) / float(o[t]))
            x = sampler.step(2 * torch.as_tensor(seen[-1]).double().view(1, 1, 1, 1) - 1, t, x, return_dict=False)[0]
    assert abs(float(x)) < 0.02
    assert all(LOW <= rho <= HIGH for rho in seen), (min(seen), max(seen))
    assert seen[-1] == pytest.approx(2 / 3 if scheduler is DDPMScheduler else 1, abs=0.1)


def test_it_is_expected_to_open_under_both_families():
    assert attack().opens(LINEAR, 1000, eta=1)
    assert all(attack().opens(LINEAR, steps, eta=0) for steps in (5, 10, 20, 50, 1000))


@pytest.mark.parametrize(("steps", "eta"), [(5, 1), (5, 0.5), (10, 1)])
def test_few_ancestral_steps_leave_the_trigger_or_the_rho_that_the_network_has_seen(steps, eta):
    assert not attack().opens(LINEAR, steps, eta)
