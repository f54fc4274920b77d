"""No attack: the clean baseline, trained and measured in the same way."""

from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.diffusion.objective import Draw, Noised, Rows, clean
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger


class NoAttack(Attack):
    """Ordinary DDPM training (Ho et al. 2020, algorithm 1); samples with the trigger are a control."""

    reads = ()

    def __init__(self, trigger: Trigger, target: Tensor):
        super().__init__(trigger, target, poison_rate=0.0)

    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return clean rows; see `Attack.poison`."""
        return clean(schedule, rows, draw)
