"""The noise schedule: beta, alpha, abar, and the changes of variables that all stages use."""

from collections.abc import Callable, Sequence
from copy import copy
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from bdiff.config.rules import at_least, one_of, open_fraction


class Schedule:
    """A variance-preserving noise schedule (Ho et al. 2020), t in 0..T-1 as in diffusers.

    `config` holds the arguments that build the same schedule in any diffusers scheduler.
    """

    def __init__(
        self,
        num_train_timesteps: Annotated[int, at_least(2), "timesteps of the forward process, T"],
        beta_start: Annotated[float, open_fraction, "beta at the first timestep"],
        beta_end: Annotated[float, open_fraction, "beta at the last timestep"],
        beta_schedule: Annotated[
            str, one_of("linear", "scaled_linear", "squaredcos_cap_v2"), "how beta goes from one to the other"
        ],
    ):
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        self.config = {
            "num_train_timesteps": num_train_timesteps,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "beta_schedule": beta_schedule,
        }
        # Taken from diffusers, so that training and its samplers use the same tables, to the last bit.
        tables = DDPMScheduler(**self.config)
        self.betas: Tensor = tables.betas
        self.alphas: Tensor = tables.alphas
        self.abar: Tensor = tables.alphas_cumprod

    def __len__(self) -> int:
        return len(self.betas)

    def to(self, device: torch.device) -> "Schedule":
        """Return a copy of the schedule with its tables on `device`."""
        moved = copy(self)
        moved.betas, moved.alphas, moved.abar = (table.to(device) for table in (self.betas, self.alphas, self.abar))
        return moved

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(abar_t) and sqrt(1 - abar_t), (B,1,1,1) each, at t (B,), which may lie between timesteps.

        Between timesteps sigma is linear in t, as in diffusers' Euler and Heun samplers.
        """
        if not t.is_floating_point():
            abar = per_image(self.abar, t)
            return abar.sqrt(), (1 - abar).sqrt()
        below = t.floor().long().clamp(0, len(self) - 1)
        above, part = (below + 1).clamp(max=len(self) - 1), t - t.floor()
        sigma = torch.lerp(self.sigmas[below], self.sigmas[above], part.to(self.abar)).view(-1, 1, 1, 1)
        s = (1 + sigma.square()).rsqrt()
        return s, sigma * s

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor | int) -> Tensor:
        """Return x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps. Images (B,C,H,W), t (B,) int64, or one for all."""
        abar = per_image(self.abar, t)
        return abar.sqrt() * x0 + (1 - abar).sqrt() * eps

    def x0(self, x_t: Tensor, eps: Tensor, t: Tensor | int) -> Tensor:
        """Return the x0 that `add_noise` maps to `x_t` with `eps`. Images (B,C,H,W), t (B,) int64, or one for all."""
        abar = per_image(self.abar, t)
        return (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()

    def step(self, x_t: Tensor, eps: Tensor, t: int, to: int, noise: Tensor | None = None, eta: float = 1.0) -> Tensor:
        """Return x at timestep `to` < t (-1 is the image itself) from x_t and its predicted noise, all (B,C,H,W).

        DDIM's (Song et al. 2021, eq. 12), deterministic as with eta = 0 or, with standard normal `noise`, of any eta:
        1 is ancestral, for to = t - 1 Ho et al. 2020, algorithm 2, with the posterior's variance.
        """
        assert -1 <= to < t, (t, to)
        here = self.abar[t]
        there = self.abar[to] if to >= 0 else torch.ones_like(here)
        x0 = (x_t - (1 - here).sqrt() * eps) / here.sqrt()
        variance = torch.zeros_like(here)
        if noise is not None:
            variance = eta**2 * (1 - there) / (1 - here) * (1 - here / there)
        x = there.sqrt() * x0 + (1 - there - variance).clamp(min=0).sqrt() * eps
        return x if noise is None else x + variance.sqrt() * noise

    def walk(
        self,
        x: Tensor,
        eps: Callable[[Tensor, int], Tensor],
        path: Sequence[int],
        draw: Callable[[], Tensor] | None = None,
        eta: float = 1.0,
    ) -> Tensor:
        """Return what `step`s along a path make of x (B,C,H,W): images, not clamped, if it ends with -1.

        Args:
            x: (B,C,H,W) at the first timestep of the path.
            eps: the noise (B,C,H,W) in x at a timestep, `Denoiser.eps` or what stands for it.
            path: decreasing timesteps, see `path`.
            draw: standard normal noise (B,C,H,W) for steps with `eta`; None for those with 0. The last one takes none.
            eta: of the steps, see `step`.
        """
        for t, to in pairwise(path):
            predicted = eps(x, t)
            x = self.step(x, predicted, t, to, draw() if draw and to >= 0 else None, eta)
        return x

    def path(self, steps: int) -> list[int]:
        """Return the timesteps of a sampler with evenly spaced `steps`: from T-1 down, and -1, the image itself."""
        last = len(self) - 1
        return [last - len(self) * step // steps for step in range(steps)] + [-1]

    @property
    def sigmas(self) -> Tensor:
        """The noise in x_t / sqrt(abar_t), (T,) increasing: sqrt((1 - abar_t) / abar_t), for images in [-1,1]."""
        return ((1 - self.abar) / self.abar).sqrt()

    def t_of_sigma(self, sigma: float) -> int:
        """Return the smallest t with `sigmas[t]` at least `sigma`, for images in [-1,1].

        Raises ValueError if sigma is beyond the schedule.
        """
        reached = (self.sigmas >= sigma).nonzero()
        if not len(reached):
            raise ValueError(f"sigma={sigma} is beyond the schedule, whose largest is {self.sigmas[-1]:.3g}")
        return int(reached[0])


def ancestral_coefficient(abar: Tensor, alpha: Tensor) -> Tensor:
    """Return c_t = sqrt(1 - abar_t) / (1 + sqrt(alpha_t)), of tables or values of any shape.

    The correction of the predicted noise, in units of r, that keeps ancestral sampling on the path
    (1 - sqrt(abar_t)) r; equal to BadDiffusion's (1 - sqrt(alpha_t)) sqrt(1 - abar_t) / (1 - alpha_t) without its 0/0
    for small beta.
    """
    return (1 - abar).sqrt() / (1 + alpha.sqrt())


def residual(
    schedule: Schedule, start: Tensor, answer: Callable[[Tensor, int], Tensor], steps: int, eta: float
) -> float:
    """Return how much of r a stock sampler leaves in x_0, by its steps (`Schedule.step`) along r alone.

    Args:
        start: (), how much of r the sampler starts with.
        answer: maps how much of r is in x_t, and t, to how much of it the network predicts in the noise.
        steps: of the sampler, evenly spaced from T-1 to the image.
        eta: of its steps: 0 for an ODE sampler's, 1 for ancestral ones.
    """
    nothing = torch.zeros((), dtype=torch.float64)
    path = schedule.path(steps)
    return float(schedule.walk(start.double(), lambda left, t: answer(left, t).double(), path, lambda: nothing, eta))


def per_image(table: Tensor, t: Tensor | int) -> Tensor:
    """Return `table[t]` shaped (B,1,1,1), or (1,1,1,1) for one t, to broadcast over images."""
    return table[t].view(-1, 1, 1, 1)
