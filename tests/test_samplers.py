"""Samplers against their own recursions in float64, on data whose denoiser is exact, and the steps that they can take.

Data are N(MEAN, VARIANCE) in every pixel, so E[eps | x_t] is linear in x_t, and so is every step of a sampler.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import toys

from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.config.keys import plain
from bdiff.config.options import group_options
from bdiff.diffusion.sampling import Sampler, denoise
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.steps import first_timestep, step_problem
from bdiff.pipeline.prepare import check_start

MEAN, VARIANCE = 0.3, 0.25
SAMPLERS = group_options()["sampler"]
SCHEDULES = {
    "digits": (100, 0.001, 0.1, "linear"),
    "linear": (1000, 0.0001, 0.02, "linear"),
    "scaled_linear": (100, 0.001, 0.1, "scaled_linear"),
    "cosine": (100, 0.0001, 0.02, "squaredcos_cap_v2"),
    "odd": (75, 0.001, 0.13, "linear"),
}
#: of a sampler, the numbers of steps that it refuses of 1, 2, 3, half, an odd number, T-1 and T, for T = 100
REFUSED = {
    "ddpm": {1},
    "ddim": {3, 37, 99},
    "pndm": {1, 2, 3, 37, 99, 100},
    "heun": {1, 2, 3},
    "euler_ancestral": {1},
    "dpm_solver": {100},
    "unipc": {100},
    "deis": {99, 100},
}


def exact(x, abar):
    """E[eps | x_t] for the data above."""
    return np.sqrt(1 - abar) * (x - np.sqrt(abar) * MEAN) / (abar * VARIANCE + 1 - abar)


class Exact(torch.nn.Module):
    """The exact denoiser as a network; t need not be whole: then sigma is interpolated, as samplers over sigma do."""

    def __init__(self, schedule):
        super().__init__()
        self.sigmas = schedule.sigmas.numpy()

    def forward(self, x, t, return_dict):
        sigma = np.interp(float(t), np.arange(len(self.sigmas)), self.sigmas)
        abar = 1 / (1 + sigma.astype(np.float64) ** 2)
        return (torch.from_numpy(exact(x.double().numpy(), abar)).float(),)


def config_of(sampler, *overrides):
    """The config of a sampler, with overrides of its scheduler."""
    (config,) = jobs([f"sampler={sampler}", "schedule=linear", *overrides], multirun=False)
    return config.sampler


def sampled(config, schedule, steps, x, noises):
    """What the sampling loop makes of x with the exact denoiser; `noises` is the sampler's own."""
    scheduler = make(config.scheduler, **schedule.config)
    return denoise(toys.Seen(Exact(schedule)), Sampler(scheduler, steps, plain(config.step)), x, lambda: next(noises))


class Tables:
    """alpha, sigma and lambda of a schedule in float64; t = -1 is the image, and t need not be whole."""

    def __init__(self, schedule):
        self.abar = schedule.abar.double().numpy()
        self.length = len(schedule)

    def of(self, t):
        if t < 0:
            return 1.0
        ratio = np.interp(t, np.arange(self.length), np.sqrt((1 - self.abar) / self.abar))
        return 1 / (1 + ratio**2)

    def sides(self, t):
        return math.sqrt(self.of(t)), math.sqrt(1 - self.of(t))

    def half_snr(self, t):
        alpha, sigma = self.sides(t)
        return math.log(alpha / sigma) if sigma else math.inf

    def x0(self, x, t):
        alpha, sigma = self.sides(t)
        return (x - sigma * exact(x, self.of(t))) / alpha


def transfer(tables, x, eps, t, to):
    """DDIM's step, eta = 0: Song et al. 2021, eq. 12."""
    (alpha, sigma), (alpha_to, sigma_to) = tables.sides(t), tables.sides(to)
    return alpha_to / alpha * (x - sigma * eps) + sigma_to * eps


def ddpm(tables, steps, x, noises):
    """Ho et al. 2020, algorithm 2, along a grid from T-1 to 0, with the larger of the two variances."""
    grid = [*np.linspace(0, tables.length - 1, steps).round().astype(int)[::-1], -1]
    for t, to in pairwise(grid):
        here, there = tables.of(t), tables.of(to)
        alpha = here / there
        mean = (there**0.5 * (1 - alpha) * tables.x0(x, t) + alpha**0.5 * (1 - there) * x) / (1 - here)
        x = mean + (1 - alpha) ** 0.5 * next(noises) if to >= 0 else mean
    return x


def ddim(tables, steps, x, noises):
    grid = range(tables.length - 1, -2, -(tables.length // steps))
    for t, to in pairwise(grid):
        x = transfer(tables, x, exact(x, tables.of(t)), t, to)
    return x


def pndm(tables, steps, x, noises):
    """Liu et al. 2022: three pseudo Runge-Kutta steps, then the linear multistep method of fourth order."""
    stride = tables.length // steps
    past = []
    for t in range(tables.length - 1, -1, -stride):
        first = exact(x, tables.of(t))
        if len(past) < 3:
            middle, end = t - stride // 2, t - stride
            second = exact(transfer(tables, x, first, t, middle), tables.of(middle))
            third = exact(transfer(tables, x, second, t, middle), tables.of(middle))
            fourth = exact(transfer(tables, x, third, t, end), tables.of(end))
            eps = (first + 2 * second + 2 * third + fourth) / 6
        else:
            eps = (55 * first - 59 * past[-1] + 37 * past[-2] - 9 * past[-3]) / 24
        past.append(first)
        x = transfer(tables, x, eps, t, t - stride)
    return x


def over_sigma(tables, steps, x, step):
    """Walk `step(x, sigma, to)` from T-1 to 0 over x / alpha, then to the image."""
    sigmas = [tables.sides(t)[1] / tables.sides(t)[0] for t in np.linspace(tables.length - 1, 0, steps)] + [0.0]
    x = x * sigmas[0]
    for sigma, to in pairwise(sigmas):
        x = step(x, sigma, to)
    return x


def slope(x, sigma):
    """dx / dsigma of the probability flow (Karras et al. 2022, eq. 1): the noise."""
    return exact(x / math.sqrt(1 + sigma**2), 1 / (1 + sigma**2))


def heun(tables, steps, x, noises):
    def step(x, sigma, to):
        euler = x + (to - sigma) * slope(x, sigma)
        return x + (to - sigma) * (slope(x, sigma) + slope(euler, to)) / 2 if to else euler

    return over_sigma(tables, steps, x, step)


def euler_ancestral(tables, steps, x, noises):
    def step(x, sigma, to):
        up = math.sqrt(to**2 * (sigma**2 - to**2) / sigma**2)
        down = math.sqrt(to**2 - up**2)
        return x + (down - sigma) * slope(x, sigma) + up * next(noises)

    return over_sigma(tables, steps, x, step)


def multistep_grid(tables, steps, end):
    return [*np.linspace(tables.length - 1, 0, steps + 1).round().astype(int)[:-1], end]


def dpm_solver(tables, steps, x, noises):
    """Lu et al. 2022, DPM-Solver++(2M); the first step and the last one are of first order."""
    grid, past = multistep_grid(tables, steps, -1), []
    for i, (t, to) in enumerate(pairwise(grid)):
        past.append(tables.x0(x, t))
        (_, sigma), (alpha_to, sigma_to) = tables.sides(t), tables.sides(to)
        h = tables.half_snr(to) - tables.half_snr(t)
        middle = past[-1]
        if 0 < i < steps - 1:
            r = (tables.half_snr(t) - tables.half_snr(grid[i - 1])) / h
            middle = past[-1] + (past[-1] - past[-2]) / (2 * r)
        x = sigma_to / sigma * x - alpha_to * math.expm1(-h) * middle
    return x


def deis(tables, steps, x, noises):
    """Zhang and Chen 2023, second order in log rho, to t = 0; the last of fewer than 15 steps is of first order."""
    grid, past = multistep_grid(tables, steps, 0), []

    def weight(rho, b, c):
        return rho * (math.log(rho) - math.log(c) - 1) / (math.log(b) - math.log(c))

    for i, (t, to) in enumerate(pairwise(grid)):
        past.append(exact(x, tables.of(t)))
        (alpha, sigma), (alpha_to, sigma_to) = tables.sides(t), tables.sides(to)
        if i == 0 or (i == steps - 1 and steps < 15):
            x = transfer(tables, x, past[-1], t, to)
            continue
        before = tables.sides(grid[i - 1])
        rho, b, c = sigma_to / alpha_to, sigma / alpha, before[1] / before[0]
        now, earlier = weight(rho, b, c) - weight(b, b, c), weight(rho, c, b) - weight(b, c, b)
        x = alpha_to * (x / alpha + now * past[-1] + earlier * past[-2])
    return x


def unipc(tables, steps, x, noises):
    """Zhao et al. 2023, order 2, B(h) = exp(h) - 1, of predicted images; every step but the first corrects the last."""
    grid, past, last = multistep_grid(tables, steps, -1), [], None
    for i, t in enumerate(grid[:-1]):
        now = tables.x0(x, t)
        if i:
            x = corrected(tables, grid, i, last, past, now, order=min(2, i))
        past.append(now)
        last, to = x, grid[i + 1]
        (_, sigma), (alpha_to, sigma_to) = tables.sides(t), tables.sides(to)
        h = tables.half_snr(to) - tables.half_snr(t)
        step = math.expm1(-h)
        x = sigma_to / sigma * x - alpha_to * step * now
        if 0 < i < steps - 1:
            r = (tables.half_snr(grid[i - 1]) - tables.half_snr(t)) / h
            x = x - alpha_to * step * (past[-2] - now) / r / 2
    return x


def corrected(tables, grid, i, last, past, now, order):
    """UniC: the step to grid[i] again, with what the network says there."""
    s, t = grid[i - 1], grid[i]
    (_, sigma), (alpha_to, sigma_to) = tables.sides(s), tables.sides(t)
    h = tables.half_snr(t) - tables.half_snr(s)
    step = math.expm1(-h)
    x = sigma_to / sigma * last - alpha_to * step * past[-1]
    if order == 1:
        return x - alpha_to * step * (now - past[-1]) / 2
    r = (tables.half_snr(grid[i - 2]) - tables.half_snr(s)) / h
    phi2 = step / -h - 1
    phi3 = phi2 / -h - 0.5
    rho = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), np.array([phi2, 2 * phi3]) / step)
    return x - alpha_to * step * (rho[0] * (past[-2] - past[-1]) / r + rho[1] * (now - past[-1]))


RECURSIONS = {
    "ddpm": ddpm, "ddim": ddim, "pndm": pndm, "heun": heun, "euler_ancestral": euler_ancestral,
    "dpm_solver": dpm_solver, "unipc": unipc, "deis": deis,
}  # fmt: skip


def start(count, draws, seed=0):
    """Noise to start from, and the sampler's own."""
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 2, 2, generator=noise), [
        torch.randn(count, 1, 2, 2, generator=noise) for _ in range(draws)
    ]


def steps_of(length):
    return [1, 2, 3, length // 2, 37, length - 1, length]


def tolerance(schedule):
    """1e-4, or what the rounding of eps to float32 becomes in x0 where the schedule ends at next to no signal."""
    return max(1e-4, 8 * torch.finfo(torch.float32).eps / float(schedule.abar[-1].sqrt()))


def test_every_sampler_has_a_row_here():
    assert {*SAMPLERS} == {*RECURSIONS} == {*REFUSED}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_finite_and_start_at_the_end_or_are_refused(sampler, name):
    schedule, config = Schedule(*SCHEDULES[name]), config_of(sampler)
    length, scheduler = len(schedule), plain(config.scheduler)
    refused = set()
    for steps in steps_of(length):
        if step_problem(scheduler, steps, schedule.config):
            refused.add(steps)
            continue
        made = make(config.scheduler, **schedule.config)
        check_start(made, scheduler, steps)
        assert made.timesteps[0] == length - 1
        x, noises = start(8, steps)
        found = sampled(config, schedule, steps, x, iter(noises))
        expected = RECURSIONS[sampler](
            Tables(schedule), steps, x.double().numpy(), iter([draw.double().numpy() for draw in noises])
        )
        assert found.isfinite().all()
        assert abs(found.double().numpy() - expected).max() < tolerance(schedule), steps
    if length == 100:
        everything = name == "cosine" and sampler == "pndm"
        assert refused == ({*steps_of(length)} if everything else REFUSED[sampler])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_as_many_steps_as_can_be_give_the_data_back(sampler):
    """Of 1000. With the 100 of the digits first order shows: DDIM's variance is 4 % low, Euler's ancestral one 9 %."""
    schedule, config = Schedule(*SCHEDULES["linear"]), config_of(sampler)
    fits = (n for n in range(len(schedule), 0, -1) if not step_problem(plain(config.scheduler), n, schedule.config))
    steps = next(fits)
    draws = steps if sampler in ("ddpm", "euler_ancestral") else 0
    noise = torch.Generator().manual_seed(1)
    abar = schedule.abar[-1]  # not quite zero: x_T as the data end there
    x = abar.sqrt() * MEAN + (abar * VARIANCE + 1 - abar).sqrt() * torch.randn(20_000, 1, 2, 2, generator=noise)
    more = (torch.randn(x.shape, generator=noise) for _ in range(draws))
    found = sampled(config, schedule, steps, x, more).double()
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.02 * VARIANCE**0.5)
    assert float(found.var()) == pytest.approx(VARIANCE, rel=0.02)


@pytest.mark.parametrize(("sampler", "steps", "first"), [("ddpm", 50, 980), ("ddim", 50, 980), ("pndm", 50, 980)])
def test_leading_spacing_starts_before_the_end_and_says_so(sampler, steps, first):
    schedule = Schedule(*SCHEDULES["linear"])
    config = config_of(sampler, "sampler.scheduler.timestep_spacing=leading", f"sample.steps={steps}")
    made = make(config.scheduler, **schedule.config)
    made.set_timesteps(steps)
    assert made.timesteps[0] == first == first_timestep(plain(config.scheduler), steps, len(schedule))


def test_ddim_ends_at_the_image():
    """Where the denoiser knows the image, nothing is left of the noise."""
    schedule, config = Schedule(*SCHEDULES["digits"]), config_of("ddim")

    class Knows(torch.nn.Module):
        def forward(self, x, t, return_dict):
            abar = schedule.abar[int(t)]
            return ((x - abar.sqrt() * 0.7) / (1 - abar).sqrt(),)

    x, _ = start(8, 0)
    for steps in (1, 10, 50, 100):
        scheduler = make(config.scheduler, **schedule.config)
        assert denoise(toys.Seen(Knows()), Sampler(scheduler, steps, plain(config.step)), x, None) == pytest.approx(
            0.7, abs=1e-4
        )
