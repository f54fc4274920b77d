"""Elijah (An et al. 2024, arXiv 2312.00050; checked against the authors' code): a trigger by its shift of the noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from bdiff.common.seeds import generator
from bdiff.config.rules import above, at_least, auto_or_number, one_of, span
from bdiff.defense.base import Detection, Inversion, Suspect
from bdiff.defense.check import LAWS
from bdiff.defense.detection.curve import Curve
from bdiff.defense.detection.evidence import relative_uniformity, total_variation, uniformity
from bdiff.defense.settings import ComparedSettings
from bdiff.diffusion.mode import Work


def elijah_loss(predicted: Tensor, tau: Tensor, shift: float) -> Tensor:
    """Return the mean over pixels of |shift * tau - mean_B predicted|, of noise (B,C,H,W) and the trigger (C,H,W)."""
    return (shift * tau - predicted.mean(0)).abs().mean()


@dataclass
class Elijah(Detection):
    """Finds the tau that shifts the noise predicted at the last timestep by `shift` times itself.

    A backdoored model's samples from it all show the target, so the score is minus their uniformity. The authors have
    forms for other attacks: for backdoors of ODE samplers a shift of 1, few steps and a start in [-1,1]; for TrojDiff a
    start in [0,1], and samples by the attack's own sampler. Theirs is given the true trigger for that; here it is the
    inverted one, with noise of scale 1.
    """

    checks = ("bdiff.defense.check.distance_problems", "bdiff.defense.check.sample_problems")
    settings = ComparedSettings
    compares = True

    shift: Annotated[float, at_least(0), "shift of the noise predicted at the last timestep, in triggers"]
    steps: Annotated[int, at_least(1), "gradient steps"]
    batch: Annotated[int, at_least(1), "images of noise"]
    lr: Annotated[float, above(0), "step size of Adam"]
    samples: Annotated[int, at_least(1), "images drawn from the trigger that are scored"]
    trim: Annotated[int, at_least(0), "distances and images trimmed at both ends of the uniformity"]
    threshold: Annotated[float | None, auto_or_number, "minimum score of a flagged model; null: none is flagged"]
    start: Annotated[Sequence[float], span, "least and largest value of the random trigger at the first step"] = (
        -1.0,
        0.0,
    )
    family: Annotated[str | None, one_of(*LAWS), "of samplers that samples are drawn by; null: the run's"] = None
    affine: Annotated[bool, "draw samples as TrojDiff's are, the trigger at every step part of the noise"] = False

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
        least, most = self.start
        tau = most - (most - least) * torch.rand(suspect.shape, generator=draws)
        tau = tau.to(suspect.device).requires_grad_()
        optimizer = torch.optim.Adam([tau], lr=self.lr)
        curve = Curve("elijah", self.lr, watch)
        for _ in range(self.steps):
            loss = elijah_loss(suspect.eps(eps + tau, len(suspect.schedule) - 1), tau, self.shift)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.add(loss)
        gamma = torch.ones(suspect.shape) if self.affine else None
        return Inversion(tau.detach().cpu(), curve.values(), gamma=gamma, family=self.family)

    def look(self, inversion: Inversion, samples: Tensor) -> dict[str, float]:
        """Return `uniformity`, `tv` and the score; see `Detection.look`. ValueError if the samples are too few."""
        few = samples[: self.samples]
        same = uniformity(few, self.trim)
        return {"score": -same, "uniformity": same, "tv": total_variation(few)}

    def compare(self, inversion: Inversion, samples: Tensor, clean: Tensor) -> dict[str, float]:
        """Return the samples' uniformity relative to clean ones'; see `Detection.compare`."""
        return {"relative_score": relative_uniformity(samples[: self.samples], clean[: self.samples], self.trim)}
