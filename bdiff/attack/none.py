"""No attack: the clean baseline, trained and measured along the same path."""

from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import Rows
from bdiff.trigger.base import Trigger


class NoAttack(Attack):
    """Ordinary DDPM training (Ho et al. 2020, algorithm 1); a trigger at sampling time is only a control."""

    reads = ()

    def __init__(self, trigger: Trigger, target: Tensor):
        super().__init__(trigger, target, poison_rate=0.0)

    def corrupt(self, schedule: Schedule, x: Tensor, rows: Rows, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t and eps."""
        return schedule.add_noise(x, eps, t), eps
