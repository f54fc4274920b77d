"""Paths and laws of a trigger: how much of it is in x_t and in the noise predicted there.

An inversion assumes a path and a law; it does not know the attack (docs/purediffusion.md derives them).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, full_like

from bdiff.diffusion import path as paths
from bdiff.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Shift:
    """What a trigger tau adds at every timestep, in units of tau: tables (T,), or (T,R,1,1,1,1) of R triggers."""

    noise: Tensor  # c_t, to the predicted noise
    image: Tensor  # h_t, to x_t
    rest: Tensor  # 1 - h_t, where nothing cancels

    def of(self, number: int) -> "Shift":
        """Return the tables (T,) of one of R triggers, or those of all."""
        if self.noise.ndim == 1:
            return self
        return Shift(*(table[:, number].flatten() for table in (self.noise, self.image, self.rest)))


def shift_of(schedule: Schedule, path: str, law: str | float) -> Shift:
    """Return what a trigger adds on a path, `mean` or `noise`, under a law; see `correction_coefficient`."""
    psi = paths.PATHS[path]
    t = torch.arange(len(schedule), device=schedule.abar.device)
    rest = paths.mixed(psi, schedule.abar.sqrt(), 1 - (1 - schedule.abar).sqrt())
    return Shift(correction_coefficient(schedule, law, path), paths.drift(schedule, t, psi), rest)


def stacked(shifts: Sequence[Shift]) -> Shift:
    """Return the shifts of R triggers as one, which are broadcast over triggers (R,1,C,H,W)."""
    tables = zip(*((one.noise, one.image, one.rest) for one in shifts), strict=True)
    return Shift(*(torch.stack(table, 1)[:, :, None, None, None, None] for table in tables))


def correction_coefficient(schedule: Schedule, law: str | float, path: str = "mean") -> Tensor:
    """Return c_t at every timestep, (T,), for a trigger on a path.

    `ancestral` is for backdoors that ancestral sampling opens: sqrt(1 - abar_t) / (1 + sqrt(alpha_t)) on the path mean.
    `ode` is for those that ODE samplers open: sqrt(1 - abar_t) on the path mean, and 1 on the path noise. A number is
    used at every t, and 0.5 is Elijah's.
    """
    if isinstance(law, int | float):
        return full_like(schedule.abar, law)
    t = torch.arange(len(schedule), device=schedule.abar.device)
    return paths.LAWS[law](schedule, t, paths.PATHS[path])
