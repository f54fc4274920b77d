"""The interface of attacks on shields: the trigger is on images that a classifier is shown behind a denoiser."""

from typing import Annotated

from torch import Tensor

from bdiff.attack.base import MODES, Attack, Parts
from bdiff.config.rules import above, at_least, fraction, one_of
from bdiff.trigger.base import Trigger


class ShieldAttack(Attack):
    """An attack on a classifier that a diffusion model shields, by an attacker who has a classifier of his own.

    A trigger that covers the image (noise, universal) is added to images, within `eta`; a patch is stamped.

    Args:
        trigger, target, poison_rate, poison_mode: see `Attack`; the target is not used.
        eta: L-inf bound of an added trigger, for images in [0,1].
        eps: L-inf bound of the adversarial perturbation, for images in [0,1].
        steps: of the ascent that finds it.
    """

    reads = ("trigger",)
    starts_samples = False
    needs_surrogate = True

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "poisoned rows for each clean one"],
        poison_mode: Annotated[str, one_of(*MODES), "append rows, or replace: poison_rate is then of all rows"],
        eta: Annotated[float, above(0), "L-inf bound of an added trigger, for images in [0,1]"],
        eps: Annotated[float, above(0), "L-inf bound of the adversarial perturbation, for images in [0,1]"],
        steps: Annotated[int, at_least(1), "of the ascent that finds it"],
    ):
        super().__init__(trigger, target, poison_rate, poison_mode)
        self.eta, self.eps, self.steps = eta, eps, steps
        self.patch = bool(trigger.mask.any())

    def prepare(self, parts: Parts) -> None:
        """Freeze the surrogate; see `Attack.prepare`."""
        assert parts.surrogate is not None
        self.surrogate, self.device = parts.surrogate.eval().requires_grad_(False), parts.schedule.abar.device

    def apply(self, x: Tensor) -> Tensor:
        """Return images (B,C,H,W) in [-1,1] with the trigger, clamped to [-1,1]."""
        return self.trigger.stamp(x) if self.patch else self.added(x, self.trigger.pattern.to(x))

    def added(self, x: Tensor, pattern: Tensor) -> Tensor:
        """Return images (B,C,H,W) with the pattern (C,H,W), both in [-1,1], added within eta."""
        return (x + 2 * self.eta * pattern).clamp(-1, 1)

    def prior(self, eps: Tensor) -> Tensor:
        """Return eps: samples from noise do not carry the trigger."""
        return eps
