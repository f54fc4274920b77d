"""Temporal consistency (after arXiv 2602.01765): how the predicted noise changes along a starting noise's chain.

The paper's check is for text-to-image models. Ours, for unconditional ones, are the sampler, the standardisation by the
model's own clean chains, and the reduction to a score.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from bdiff.common.seeds import generator
from bdiff.config.rules import at_least
from bdiff.defense.base import Facts, InputCheck, Inversion, Suspect
from bdiff.diffusion.noise import Noise

LEAST = 1e-12  # mean square of a change whose logarithm is taken
RIDGE = 1e-6  # on the variance of such a logarithm, for a model whose noise never changes


def changes(suspect: Suspect, x: Tensor, steps: int) -> Tensor:
    """Return log mean (e_k - e_k+1)^2 (B,steps-1) of the noise predicted along the DDIM chain from x (B,C,H,W)."""
    predicted: list[Tensor] = []

    def watched(x: Tensor, t: int) -> Tensor:
        predicted.append(suspect.eps(x, t))
        return predicted[-1]

    suspect.schedule.walk(x, watched, suspect.schedule.path(steps))
    moved = [(one - other).square().mean((1, 2, 3)) for one, other in pairwise(predicted)]
    return torch.stack(moved, 1).clamp(min=LEAST).log()


def mahalanobis(series: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance (B,) of series (B,K) from a mean (K,), divided by K.

    The covariance is given by its Cholesky factor (K,K).
    """
    return torch.linalg.solve_triangular(cholesky, (series - mean).T, upper=False).square().mean(0)


@dataclass
class Temporal(InputCheck):
    """Scores a noise by how unlike those of clean chains its series of changes is, each change and all together.

    On the digits the first changes of triggered chains are larger than those of clean ones and later ones smaller,
    whether or not the backdoor opens under DDIM: no sum of them tells the two apart, so a distance counts.
    """

    checks = ("bdiff.defense.check.step_problems", "bdiff.defense.check.reference_problems")

    steps: Annotated[int, at_least(2), "of the DDIM chain"]
    references: Annotated[int, at_least(2), "clean noises of the defender's own, whose chains the series is held to"]

    @property
    def evaluations(self) -> int:
        """See `InputCheck.evaluations`."""
        return self.steps

    @property
    def preparation(self) -> int:
        """See `InputCheck.preparation`."""
        return self.references * self.steps

    def prepare(self, suspect: Suspect, inversion: Inversion | None, seed: int, batch_size: int) -> Facts:
        """Return the mean (K,) and the covariance's Cholesky factor of clean series; see `InputCheck.prepare`."""
        clean = suspect.noise(self.references, generator(seed, "temporal"))
        series = torch.cat([changes(suspect, part, self.steps) for part in clean.split(batch_size)])
        covariance = torch.cov(series.T).view(self.steps - 1, self.steps - 1)
        ridge = RIDGE * torch.eye(self.steps - 1, device=series.device)
        return {"mean": series.mean(0), "cholesky": torch.linalg.cholesky(covariance + ridge)}

    def score(self, x: Tensor, suspect: Suspect, noise: Noise, facts: Facts) -> Tensor:
        """Return the distance (B,); see `InputCheck.score`."""
        return mahalanobis(changes(suspect, x, self.steps), facts["mean"], facts["cholesky"])
