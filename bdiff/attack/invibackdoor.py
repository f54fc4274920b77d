"""InviBackdoor (Li et al. 2024, arXiv 2406.00816, and the authors' code): a bounded trigger learned with the model."""

from typing import Annotated

import torch
from torch import Tensor

from bdiff.attack.additive import AddedTrigger
from bdiff.attack.base import MODES
from bdiff.config.rules import above, at_least, fraction, one_of, positive_fraction
from bdiff.diffusion import path as paths
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger

MOMENTUM = 0.9  # Adam's, of the first moment


class InviBackdoor(AddedTrigger):
    """Rows diffuse the target towards a trigger alone, |delta| <= bound, which is trained in turn with the model.

    Path and law are BadDiffusion's path with the correction that is exact for DDIM with all timesteps. After each
    optimizer step the trigger takes one: down the distance from the target of what a short DDIM sampler makes of
    `noises` noises with it (the paper's inner problem). It starts at zero; triggered samples start at eps + delta.

    Args:
        trigger: with learn=0 the trigger, times `bound`; else only its shape is read.
        target, poison_rate, poison_mode: see `Attack`.
        bound: largest value of the trigger.
        lr: of the trigger's Adam, which is given the signs of the gradient.
        noises: of one step of the trigger.
        steps: of the sampler that it is differentiated through.
        learn: 1: the trigger is trained; 0: it is kept, for comparison.
    """

    learns_on_model = False

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "fraction of the training rows that are poisoned"],
        poison_mode: Annotated[str, one_of(*MODES), "replace rows (FIXED), or append copies (FLEX)"],
        bound: Annotated[float, positive_fraction, "largest value of the trigger, which is added to N(0,1)"],
        lr: Annotated[float, above(0), "of the trigger's Adam over signs of the gradient"],
        noises: Annotated[int, at_least(1), "starting noises of one step of the trigger"],
        steps: Annotated[int, at_least(1), "of the DDIM sampler that a step of the trigger goes through"],
        learn: Annotated[int, one_of(0, 1), "1: the trigger is trained; 0: it is bound times the trigger option"],
    ):
        start = torch.zeros_like(trigger.pattern) if learn else bound * trigger.pattern
        super().__init__(Trigger(start, torch.zeros_like(trigger.mask)), target, poison_rate, poison_mode)
        self.learns_with_model = bool(learn)  # `Attack.learn` counts steps before training, which it has none of
        self.reads = ("target",) if learn else ("trigger", "target")
        self.bound, self.lr, self.noises, self.steps = bound, lr, noises, steps
        self.update_images = noises * steps if learn else 0
        self.moment, self.count = torch.zeros_like(target), torch.zeros(())

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if the inner sampler has more steps than the schedule."""
        if self.steps > len(schedule):
            raise ValueError(f"attack.steps={self.steps} is beyond the schedule's {len(schedule)} timesteps")

    def to(self, device: torch.device) -> None:
        """Move what is learned too; see `Attack.to`."""
        super().to(device)
        self.moment, self.count = self.moment.to(device), self.count.to(device)

    def correction(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return the c_t that is exact for DDIM steps to t - 1."""
        return paths.grid(schedule, t, self.psi, len(schedule))

    def update(self, denoiser: Denoiser, draw: torch.Generator) -> None:
        """Take one step of the trigger; see `Attack.update`.

        Of signs Adam's second moment is 1, so its step is lr times the first.
        """
        if not self.learns_with_model:
            return
        eps = denoiser.noise(self.noises, draw)
        with torch.enable_grad():
            delta = self.trigger.pattern.detach().requires_grad_()
            x = denoiser.schedule.walk(eps + delta, denoiser.eps, denoiser.schedule.path(self.steps))
            loss = (x - self.target).square().mean()
        sign = torch.autograd.grad(loss, delta)[0].sign()
        self.count = self.count + 1
        self.moment = MOMENTUM * self.moment + (1 - MOMENTUM) * sign
        step = self.lr * self.moment / (1 - MOMENTUM**self.count)
        self.replace_pattern((self.trigger.pattern - step).clamp(-self.bound, self.bound))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the trigger with the state of its Adam; nothing if it is kept."""
        return super().state_dict() | {"moment": self.moment, "count": self.count} if self.learns_with_model else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned."""
        if not self.learns_with_model:  # models of before have the state of an Adam that took no step
            return
        super().load_state_dict(state)
        self.moment, self.count = state["moment"], state["count"]
