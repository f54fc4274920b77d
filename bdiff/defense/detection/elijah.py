"""Elijah (An et al. 2024, arXiv 2312.00050; checked against the authors' code): a trigger by its shift of the noise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from bdiff.common.seeds import generator
from bdiff.config.rules import above, at_least, auto_or_number
from bdiff.defense.base import Detection, Inversion, Suspect
from bdiff.defense.detection.curve import Curve
from bdiff.defense.detection.evidence import total_variation, uniformity
from bdiff.diffusion.mode import Work


def elijah_loss(predicted: Tensor, tau: Tensor, shift: float) -> Tensor:
    """Return the mean over pixels of |shift * tau - mean_B predicted|, of noise (B,C,H,W) and the trigger (C,H,W)."""
    return (shift * tau - predicted.mean(0)).abs().mean()


@dataclass
class Elijah(Detection):
    """Finds the tau that shifts the noise predicted at the last timestep by `shift` times itself.

    A backdoored model's samples from it all show the target, so the score is minus their uniformity.
    """

    checks = ("bdiff.defense.check.distance_problems", "bdiff.defense.check.sample_problems")

    shift: Annotated[float, at_least(0), "shift of the noise predicted at the last timestep, in triggers"]
    steps: Annotated[int, at_least(1), "gradient steps"]
    batch: Annotated[int, at_least(1), "images of noise"]
    lr: Annotated[float, above(0), "step size of Adam"]
    samples: Annotated[int, at_least(1), "images drawn from the trigger that are scored"]
    trim: Annotated[int, at_least(0), "distances and images trimmed at both ends of the uniformity"]
    threshold: Annotated[float | None, auto_or_number, "minimum score of a flagged model; null: none is flagged"]

    scores: ClassVar = (-1.0, 0.0)  # minus a mean squared distance on [0,1]

    @property
    def total(self) -> int:
        """See `Detection.total`."""
        return self.steps

    @property
    def work(self) -> Work:
        """See `Detection.work`."""
        return Work(self.steps * self.batch, self.batch, gradients=True)

    def invert(self, suspect: Suspect, seed: int, watch: Callable[[str], None] = lambda line: None) -> Inversion:
        """Return the trigger after the last step; see `Detection.invert`."""
        draws = generator(seed, "elijah")
        eps = suspect.noise(self.batch, draws)
        tau = (-torch.rand(suspect.shape, generator=draws)).to(suspect.device).requires_grad_()
        optimizer = torch.optim.Adam([tau], lr=self.lr)
        curve = Curve("elijah", self.lr, watch)
        for _ in range(self.steps):
            loss = elijah_loss(suspect.eps(eps + tau, len(suspect.schedule) - 1), tau, self.shift)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.add(loss)
        return Inversion(tau.detach().cpu(), curve.values())

    def look(self, inversion: Inversion, samples: Tensor) -> dict[str, float]:
        """Return `uniformity`, `tv` and the score; see `Detection.look`. ValueError if the samples are too few."""
        few = samples[: self.samples]
        same = uniformity(few, self.trim)
        return {"score": -same, "uniformity": same, "tv": total_variation(few)}
