"""Paths and corrections of poisoned rows, against independent writings of them and stock schedulers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from bdiff.diffusion import path
from bdiff.diffusion.sampling import handed
from bdiff.diffusion.schedule import Schedule, residual

LINEAR = Schedule(1000, 1e-4, 0.02, "linear")
DOUBLE = Schedule(1000, 1e-4, 0.02, "linear")
DOUBLE.abar = LINEAR.abar.double()  # whose steps are a stock sampler's to the last digits
ALL = torch.arange(1000)
SCHEDULES = [LINEAR, Schedule(100, 1e-3, 0.1, "linear"), Schedule(50, 1e-4, 0.02, "squaredcos_cap_v2")]


def exact(schedule: Schedule) -> list[tuple[float, float]]:
    """alpha_t and abar_t in Python's floats, abar_{-1} = 1 at the end."""
    return [*zip(schedule.alphas.tolist(), schedule.abar.tolist(), strict=True), (math.nan, 1.0)]


def h(abar: float, psi: float) -> float:
    """The factor of r in x_t."""
    return psi * (1 - math.sqrt(abar)) + (1 - psi) * math.sqrt(1 - abar)


@pytest.mark.parametrize("psi", [0, 0.3, 1])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_corrections_are_the_quotients_of_the_path(schedule, psi):
    rows, every = exact(schedule), torch.arange(len(schedule))
    stride = len(schedule) // 10
    ancestral, ddim = [], []
    for t in range(len(schedule)):
        (alpha, abar), (_, last) = rows[t], rows[t - 1]
        alpha = abar / last  # the same to float32's rounding, and the quotients cancel
        ancestral.append((h(abar, psi) - math.sqrt(alpha) * h(last, psi)) * math.sqrt(1 - abar) / (1 - alpha))
        to = rows[t - stride][1] if t >= stride else 1.0
        ratio = math.sqrt(to / abar)
        ddim.append((ratio * h(abar, psi) - h(to, psi)) / (ratio * math.sqrt(1 - abar) - math.sqrt(1 - to)))
    torch.testing.assert_close(path.drift(schedule, every, psi), torch.tensor([h(a, psi) for _, a in rows[:-1]]))
    torch.testing.assert_close(path.ancestral(schedule, every, psi), torch.tensor(ancestral), rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(path.grid(schedule, every, psi, 10), torch.tensor(ddim), rtol=1e-5, atol=1e-6)


def test_a_fine_grid_tends_to_the_ode_s_correction():
    for psi in (0, 0.5, 1):
        torch.testing.assert_close(
            path.grid(LINEAR, ALL, psi, 1000)[50:], path.ode(LINEAR, ALL, psi)[50:], rtol=0.02, atol=2e-3
        )


@pytest.mark.parametrize("psi", [0, 0.4, 1])
def test_villandiffusion_s_coefficient_in_its_own_terms(psi):
    for t in (0, 1, 10, 400, 999):
        alpha, abar = exact(LINEAR)[t]
        last = exact(LINEAR)[t - 1][1] if t else 1.0
        step = math.sqrt(1 - abar) - math.sqrt(alpha) * math.sqrt(1 - last)
        mean = (1 - math.sqrt(alpha)) * math.sqrt(1 - abar) / (1 - alpha)
        noise = (1 - math.sqrt(alpha)) * math.sqrt(1 - abar) + step * (alpha - abar) / (1 - alpha)
        expected = psi * mean + (1 - psi) * noise
        for solver, factor in (("sde", 1), ("ode", 2)):
            found = path.villan(LINEAR, torch.tensor([t]), psi, solver).item()
            assert found == pytest.approx(factor * expected, rel=2e-3, abs=1e-5), (t, solver)


ANCESTRAL, TWICE, EXACT = "ancestral", "twice", "ode"
#: psi of the path, the correction, DDIM's steps (None: DDPM's), and what is left of r in the image, in units of r:
#: if the first timestep is T - T / steps, as DDIM was published, and if it is T-1
LEFT = [
    *[(1, ANCESTRAL, *row) for row in [(None, 0, 0), (1000, 78, 78), (50, 64, 78), (20, 48, 78), (10, 30, 78)]],
    *[(1, TWICE, *row) for row in [(None, -156, -156), (1000, -0.71, -0.71), (50, -0.64, -0.776)]],
    *[(1, TWICE, *row) for row in [(20, -0.57, -0.875), (10, -0.53, -1.02)]],
    *[(1, EXACT, *row) for row in [(1000, -0.003, -0.003), (50, -0.064, -0.064)]],
    *[(1, EXACT, *row) for row in [(20, -0.151, -0.153), (10, -0.278, -0.283)]],
    *[(0, EXACT, steps, 0, 0) for steps in (1000, 50, 20, 10)],
    (0, ANCESTRAL, None, 0, 0),
]


def precise(scheduler):
    """The scheduler with its tables in float64, `DOUBLE`'s."""
    for name in ("betas", "alphas", "alphas_cumprod"):
        setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


def correction(law: str, psi: float) -> torch.Tensor:
    if law == TWICE:
        return path.villan(LINEAR, ALL, psi, "ode")
    return getattr(path, law)(LINEAR, ALL, psi)


@pytest.mark.parametrize(("psi", "law", "steps", "leading", "trailing"), LEFT)
def test_what_stock_samplers_leave_of_the_trigger(psi, law, steps, leading, trailing):
    c, h = correction(law, psi), path.drift(LINEAR, ALL, psi)
    kept = {**LINEAR.config, "clip_sample": False}
    for spacing, left in (("leading", leading), ("trailing", trailing)):
        ddim = DDIMScheduler(**kept, timestep_spacing=spacing, set_alpha_to_one=True)
        scheduler = precise(ddim if steps else DDPMScheduler(**kept))
        scheduler.set_timesteps(steps or 1000)
        x = h[scheduler.timesteps[0]].double().view(1, 1, 1, 1)
        with handed(scheduler, lambda x=x: torch.zeros_like(x)):
            for t in scheduler.timesteps:
                x = scheduler.step(c[t].double().view(1, 1, 1, 1), t, x, return_dict=False)[0]
        close = {"abs": max(0.01 * abs(left), 4e-3 if abs(left) < 1 else 0.6)}
        assert float(x) == pytest.approx(left, **close), spacing
    found = residual(DOUBLE, h[-1], lambda _, t: c[t], steps or 1000, eta=float(steps is None))
    assert found == pytest.approx(float(x), rel=1e-9, abs=1e-9)
    assert residual(LINEAR, h[-1], lambda _, t: c[t], steps or 1000, float(steps is None)) == pytest.approx(
        found, abs=1e-3
    )


@pytest.mark.parametrize(("eta", "left"), [(0, 0), (0.05, -0.3), (0.1, -1.21), (0.5, -31), (1, None)])
def test_what_ddim_with_an_eta_leaves_of_the_noise_path(eta, left):
    ddim = DDIMScheduler(**LINEAR.config, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True)
    scheduler = precise(ddim)
    scheduler.set_timesteps(50)
    x = path.drift(LINEAR, ALL, 0)[-1].double().view(1, 1, 1, 1)
    with handed(scheduler, lambda: torch.zeros_like(x)):
        for t in scheduler.timesteps:
            x = scheduler.step(torch.ones_like(x), t, x, eta=eta, return_dict=False)[0]
    found = residual(DOUBLE, path.drift(LINEAR, ALL, 0)[-1], lambda _, t: torch.ones(()), 50, eta)
    assert found == pytest.approx(float(x), rel=1e-6, abs=1e-6)
    assert left is None or found == pytest.approx(left, rel=0.03, abs=0.01)


@pytest.mark.parametrize("steps", [5, 10, 20, 50])
@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_on_the_noise_path_every_ode_sampler_ends_without_the_trigger(scheduler, steps):
    sampler = scheduler(**LINEAR.config)
    sampler.set_timesteps(steps)
    x = path.drift(LINEAR, ALL, 0)[-1].double().view(1, 1, 1, 1)
    for t in sampler.timesteps:
        x = sampler.step(torch.ones_like(x), t, x, return_dict=False)[0]
    assert abs(float(x)) < 0.01


def test_a_grid_s_correction_leaves_nothing_on_its_grid_and_something_on_others():
    start = path.drift(LINEAR, ALL, 1)
    for steps in (10, 20, 50):
        c = path.grid(LINEAR, ALL, 1, steps)
        left = {ddim: residual(LINEAR, start[-1], lambda _, t, c=c: c[t], ddim, 0) for ddim in (10, 20, 50)}
        assert abs(left.pop(steps)) < 1e-4
        assert all(abs(one) > 0.05 for one in left.values())
