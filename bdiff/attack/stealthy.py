"""Ours: TrojDiff's noise with a trigger that leaves the statistics of noise alone, against checks like DisDet's."""

import math
from typing import Annotated, Any

import torch
from torch import Tensor

from bdiff.attack.affine import AffineAttack
from bdiff.attack.settings import AttackSettings
from bdiff.config.rules import fraction, open_fraction
from bdiff.trigger.base import Trigger


class Stealthy(AffineAttack):
    """A blend whose starting noise, sqrt(1 - b^2) eps + b g, has the values of normal noise, in the trigger's order.

    DisDet (Sui et al. 2024, arXiv 2402.02739) finds a trigger that moves the statistics of starting noise, and has an
    attack that learns a trigger which does not; its loss is not known to us. Here g is made so: the pattern's values
    are replaced by the quantiles of N(0,1) of their ranks. So mean, variance and histogram stay those of noise, and
    deviate less than those of noise alone; what is left to see is where its values are.

    Args:
        trigger: its pattern orders the values of g.
        target: see `Attack`.
        poison_rate: rows of the target that are added, as a fraction of the clean ones.
        strength: b, in (0,1); the scale of the noise is sqrt(1 - b^2).
    """

    settings = AttackSettings
    checks = ("bdiff.attack.check.adaptive_problems",)

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "rows that are added, as a fraction of the clean ones"],
        strength: Annotated[float, open_fraction, "b of the starting noise sqrt(1 - b^2) eps + b g"],
    ):
        super().__init__(trigger, target, poison_rate, "append")
        self.strength, self.scores = strength, normal_scores(trigger.pattern)

    def to(self, device: torch.device) -> None:
        """Move the scores too; see `Attack.to`."""
        super().to(device)
        self.scores = self.scores.to(device)

    @property
    def maps(self) -> tuple[Tensor, Tensor]:
        """The scale sqrt(1 - b^2) and the shift b g of the noise, (C,H,W) each."""
        scale = torch.full_like(self.scores, math.sqrt(1 - self.strength**2))
        return scale, self.strength * self.scores

    @property
    def start_key(self) -> Any:
        """See `Attack.start_key`."""
        return [type(self).__name__, self.strength]


def normal_scores(pattern: Tensor) -> Tensor:
    """Return the quantiles of N(0,1) of a pattern's ranks, with mean 0 and variance 1, in its shape.

    Equal values are ordered at random, in the same way each time.
    """
    count = pattern.numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(pattern.device)
    ranks = torch.empty(count, dtype=torch.float64, device=pattern.device)
    by_value = order[pattern.flatten()[order].argsort(stable=True)]
    ranks[by_value] = torch.arange(count, dtype=torch.float64, device=pattern.device)
    scores = torch.special.ndtri((ranks + 0.5) / count)
    return (scores / scores.square().mean().sqrt()).to(pattern).view_as(pattern)
