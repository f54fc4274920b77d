"""Ours: an additive attack that opens under ancestral and ODE samplers alike, since its answer corrects the path."""

from typing import Annotated

from torch import Tensor

from bdiff.attack.additive import AdditiveAttack
from bdiff.attack.base import MODES
from bdiff.config.rules import fraction, one_of, pixel_value
from bdiff.diffusion.objective import Draw
from bdiff.diffusion.schedule import Schedule, residual
from bdiff.trigger.base import Trigger

LOW, HIGH = 0.55, 1.2  # between which rho is drawn, uniformly


class NoisePathBoth(AdditiveAttack):
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

    def factors(self, schedule: Schedule, t: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return sqrt(1 - abar_t) rho and c(rho) for a drawn rho; see `AdditiveAttack.factors`."""
        rho = LOW + (HIGH - LOW) * draw.uniform()
        return (1 - schedule.abar[t]).sqrt() * rho, correction(rho)

    def shown(self, x: Tensor) -> Tensor:
        """Return the trigger alone."""
        return self.trigger.alone(x)

    def opens(self, schedule: Schedule, steps: int, eta: float) -> bool:
        """Return whether rho stays where the network has seen it, and less than g is left; see `Attack.opens`."""
        scale, seen = (1 - schedule.abar).sqrt().double(), []

        def answer(shift: Tensor, t: int) -> Tensor:
            seen.append(shift / scale[t])
            return correction(seen[-1])

        left = residual(schedule, scale[-1], answer, steps, eta)
        return abs(left) < 1 and all(LOW <= rho <= HIGH for rho in seen)


def correction(rho: Tensor) -> Tensor:
    """Return c(rho)."""
    return 2 * rho - 1
