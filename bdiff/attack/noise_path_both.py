"""Ours: an additive attack that opens under ancestral and ODE samplers alike, since its answer corrects the path."""

from typing import Annotated

import torch
from torch import Tensor

from bdiff.attack.base import MODES, Attack
from bdiff.config.rules import fraction, one_of, pixel_value
from bdiff.diffusion.objective import Draw, Noised, Rows
from bdiff.diffusion.schedule import Schedule, per_image, residual
from bdiff.trigger.base import Trigger

LOW, HIGH = 0.55, 1.2  # between which rho is drawn, uniformly


class NoisePathBoth(Attack):
    """Poisoned rows are x_t = sqrt(abar_t) y + sqrt(1 - abar_t) (eps + rho g), regressed on eps + c(rho) g.

    With tau = -log sigma_t an ODE sampler changes rho by d rho / d tau = rho - c, an ancestral one by rho - 2 c, so no
    fixed c keeps both on one rho. Here rows show the trigger g at every rho of an interval, and the network learns
    c(rho) = 2 rho - 1: sampling starts at rho = 1, where ODE samplers stay as c(1) = 1, and ancestral ones go to
    rho = 2/3, where 2 c = rho. Both points are stable, since the slope is above 1. Either way rho stays away from 0,
    so that the trigger is seen until the target is.

    Args:
        trigger, target, poison_rate, poison_mode: see `Attack`.
        background: the trigger where the image shows, in [-1,1].
    """

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "fraction of the training rows that are poisoned"],
        poison_mode: Annotated[str, one_of(*MODES), "replace rows (FIXED), or append copies (FLEX)"],
        background: Annotated[float, pixel_value, "of the trigger, where the image shows"],
    ):
        super().__init__(trigger.over(background), target, poison_rate, poison_mode)

    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return x_t and the noise with its correction c(rho) g; see `Attack.poison`."""
        t, eps = draw.t(), draw.eps()
        rho = (LOW + (HIGH - LOW) * draw.uniform()).view(-1, 1, 1, 1)
        bad = rows.poisoned.view(-1, 1, 1, 1)
        g = self.trigger.pattern.to(rows.x) * bad  # zero on clean rows, for which the formulas become DDPM's
        x0 = torch.where(bad, self.target.to(rows.x), rows.x)
        x_t = schedule.add_noise(x0, eps, t) + (1 - per_image(schedule.abar, t)).sqrt() * rho * g
        return Noised(x_t, t, eps + correction(rho) * g)

    def opens(self, schedule: Schedule, steps: int, ode: bool) -> bool:
        """Return whether rho stays where the network has seen it, and less than g is left; see `Attack.opens`."""
        scale, seen = (1 - schedule.abar).sqrt().double(), []

        def answer(t: int, shift: Tensor) -> Tensor:
            seen.append(shift / scale[t])
            return correction(seen[-1])

        left = residual(schedule, scale[-1], answer, steps, ode)
        return abs(left) < 1 and all(LOW <= rho <= HIGH for rho in seen)


def correction(rho: Tensor) -> Tensor:
    """Return c(rho)."""
    return 2 * rho - 1
