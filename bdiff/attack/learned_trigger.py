"""Ours: an additive attack whose bounded trigger is learned on the clean model before the backdoor is trained."""

from typing import Annotated

import torch
from torch import Tensor

from bdiff.attack.additive import AddedTrigger, bounded
from bdiff.attack.base import MODES
from bdiff.config.rules import at_least, eight_bit_fraction, fraction, one_of
from bdiff.diffusion import path as paths
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger

LENGTH = 0.05  # of a step that learns the trigger, in units of its bound


class LearnedTrigger(AddedTrigger):
    """Rows diffuse the target towards a trigger alone, |g| <= bound, that the clean model already answers to.

    g minimizes the loss of the poisoned rows under the clean model (see `update_trigger`), so that little is left for
    training to change: what TooBad (2026, arXiv 2606.23362), known to us by its abstract, does for a trigger of its own
    kind. That the samples of several noises agree is no term of its own: they do as far as the law's loss is small.

    Args:
        trigger: where learning starts, times `bound`; with learn=0 it is the trigger.
        target, poison_rate, poison_mode: see `Attack`.
        path: mean, h_t = 1 - sqrt(abar_t), or noise, h_t = sqrt(1 - abar_t).
        law: ancestral or ode: the samplers that stay on the path.
        bound: largest value of the trigger, which is added to standard normal noise.
        learn: steps of `update_trigger`.
    """

    learn_reads = ("path", "law", "bound")

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "fraction of the training rows that are poisoned"],
        poison_mode: Annotated[str, one_of(*MODES), "replace rows (FIXED), or append copies (FLEX)"],
        path: Annotated[str, one_of("mean", "noise"), "h_t: 1 - sqrt(abar), or sqrt(1 - abar)"],
        law: Annotated[str, one_of("ancestral", "ode"), "samplers that the backdoor is made for"],
        bound: Annotated[float, eight_bit_fraction, "largest value of the trigger, which is added to N(0,1)"],
        learn: Annotated[int, at_least(0), "steps that learn the trigger on the clean model; 0 keeps its start"],
    ):
        start = bounded(bound * trigger.pattern, bound)
        everywhere = Trigger(start, torch.zeros_like(trigger.mask))  # the image shows nowhere
        super().__init__(everywhere, target, poison_rate, poison_mode)
        self.psi, self.law, self.bound, self.learn = paths.PATHS[path], law, bound, learn

    def correction(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return the c_t that keeps the law's samplers on the path."""
        return paths.LAWS[self.law](schedule, t, self.psi)

    def update_trigger(self, denoiser: Denoiser, pattern: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Return the pattern after a sign step on the loss that poisoned rows have under the clean model.

        The loss is the mean of (o/s)^2 ||eps_th(s y + h_t g + o eps, t) - eps - c_t g||^2, at timesteps that are spread
        evenly over the batch: distances between predicted images, since near T a large one of them is a small one of
        noises. See `Attack.update_trigger`.
        """
        schedule = denoiser.schedule
        t = torch.arange(len(eps), device=eps.device) * len(schedule) // len(eps)
        h, c = (factor.view(-1, 1, 1, 1) for factor in (self.drift(schedule, t), self.correction(schedule, t)))
        clean, (s, o) = schedule.add_noise(self.target.to(eps).expand_as(eps), eps, t), schedule.scales(t)
        with torch.enable_grad():
            g = pattern.detach().requires_grad_()
            loss = (o / s * (denoiser.eps(clean + h * g, t) - eps - c * g)).square().mean()
        return bounded(pattern - LENGTH * self.bound * torch.autograd.grad(loss, g)[0].sign(), self.bound)
