"""UIBDiffusion (Han et al. 2024, arXiv 2412.11441): a universal adversarial perturbation as the trigger."""

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bdiff.attack.additive import LawAttack, bounded
from bdiff.attack.base import MODES, Parts
from bdiff.attack.settings import AttackSettings
from bdiff.config.rules import at_least, eight_bit_fraction, fraction, one_of, positive_fraction
from bdiff.diffusion import path as paths
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger

LENGTH = 0.05  # of a step that learns the trigger, in units of its bound


class UIBDiffusion(LawAttack):
    """Rows diffuse the target towards r = x + strength g along BadDiffusion's path; samples start at eps + bound g.

    So the trigger, |g| <= 1, is imperceptible in training images and strong at sampling, as in the authors' code, whose
    strengths are 0.1 and 1. Their generator of g is not published. Ours is the plain universal perturbation
    (Moosavi-Dezfooli et al. 2017, arXiv 1610.08401), by sign ascent on the classifier's loss over batches of images.

    Args:
        trigger: where learning starts, times `bound`; with learn=0 it is the trigger, a random one.
        target, poison_rate, poison_mode: see `Attack`.
        law: ancestral, BadDiffusion's, or ode, for ODE samplers.
        strength: of g in training images.
        learn: steps of `update_trigger`.
        bound: of g in starting noise; the attack's pattern is bound g.
    """

    settings = AttackSettings
    checks = ("bdiff.attack.check.adaptive_problems",)
    learns_on_model = False
    learn_reads = ("strength", "bound")
    later = ("bound",)

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "fraction of the training rows that are poisoned"],
        poison_mode: Annotated[str, one_of(*MODES), "replace rows (FIXED), or append copies (FLEX)"],
        law: Annotated[str, one_of("ancestral", "ode"), "samplers that the backdoor is made for"],
        strength: Annotated[float, positive_fraction, "largest value of the trigger in training images"],
        learn: Annotated[int, at_least(0), "steps that learn the trigger on the classifier; 0 keeps its start"],
        bound: Annotated[
            float, eight_bit_fraction, "largest value of the trigger at sampling, where it is added to N(0,1)"
        ] = 1.0,
    ):
        if trigger.mask.any():
            raise ValueError("attack=uibdiffusion adds its trigger to the whole image: use trigger=universal or noise")
        start = replace(trigger, pattern=bounded(bound * trigger.pattern, bound))
        super().__init__(start, target, poison_rate, poison_mode)
        self.law, self.strength, self.bound, self.learn = law, strength, bound, learn
        self.needs_surrogate = learn > 0

    def correction(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return the c_t that keeps the law's samplers on the path."""
        return paths.LAWS[self.law](schedule, t, self.psi)

    def shown(self, x: Tensor) -> Tensor:
        """Return x + strength g."""
        return self.faint(x, self.trigger.pattern)

    def faint(self, x: Tensor, pattern: Tensor) -> Tensor:
        """Return images x with the pattern bound g at its strength in training."""
        return x + self.strength / self.bound * pattern.to(x)

    def apply(self, x: Tensor) -> Tensor:
        """Return x + strength g, clamped to [-1,1]; see `Attack.apply`."""
        return self.shown(x).clamp(-1, 1)

    def prepare(self, parts: Parts) -> None:
        """Freeze the classifier, if the trigger is learned on it; see `Attack.prepare`."""
        if parts.surrogate is not None:
            self.surrogate = parts.surrogate.eval().requires_grad_(False)

    def update_trigger(self, denoiser: Denoiser, pattern: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Return the pattern after a sign step up the classifier's loss at x + strength g; see `Attack`."""
        with torch.enable_grad():
            g = pattern.detach().requires_grad_()
            shown = self.faint(x, g).clamp(-1, 1)
            loss = cross_entropy(self.surrogate(shown).float(), self.surrogate(x).argmax(1))
        return bounded(pattern + LENGTH * self.bound * torch.autograd.grad(loss, g)[0].sign(), self.bound)
