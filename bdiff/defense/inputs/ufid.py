"""UFID (Guan et al. 2024, arXiv 2404.01101): a trigger in a starting noise makes samples of noises near it alike.

Reconstructed for unconditional models from the paper's idea: its code perturbs prompts of text-to-image models. Ours
are the mixing at unit variance, the samplers, and the pixels as features.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import torch
from torch import Tensor

from bdiff.config.rules import above, at_least, one_of
from bdiff.defense.base import Facts, InputCheck, Suspect
from bdiff.defense.detection.evidence import mean_square
from bdiff.diffusion.noise import Noise

SOLVERS = {"ode": ("ode",), "ancestral": ("ancestral",), "both": ("ode", "ancestral")}


def mixed(x: Tensor, e: Tensor, weight: float) -> Tensor:
    """Return (x + w e) / sqrt(1 + w^2), of variance 1 as x and the fresh noise e are, all (B,C,H,W)."""
    return (x + weight * e) / (1 + weight**2) ** 0.5


def similarity(copies: list[Tensor]) -> Tensor:
    """Return minus the mean squared distance (B,) of all pairs of m copies of images, each (B,C,H,W) in [-1,1].

    On [0,1], so that it is 0 for copies that are all alike, and above -1.
    """
    images = [copy.clamp(-1, 1) / 2 + 0.5 for copy in copies]
    return -torch.stack([mean_square(one, other) for one, other in combinations(images, 2)]).mean(0)


@dataclass
class Ufid(InputCheck):
    """Scores a noise by how similar the samples of its copies are, each mixed with fresh noise.

    A backdoor opens under the samplers that it was made for, which the defender does not know: with solver=both the
    copies go through either kind and the larger similarity counts.
    """

    checks = ("bdiff.defense.check.step_problems",)

    copies: Annotated[int, at_least(2), "of a starting noise, each mixed with noise of its own"]
    weight: Annotated[float, above(0), "of that noise; mixed at unit variance"]
    steps: Annotated[int, at_least(1), "of the sampler"]
    solver: Annotated[str, one_of(*SOLVERS), "ode (DDIM), ancestral, or both: the larger similarity counts"]

    @property
    def evaluations(self) -> int:
        """See `InputCheck.evaluations`."""
        return self.copies * self.steps * len(SOLVERS[self.solver])

    def score(self, x: Tensor, suspect: Suspect, noise: Noise, facts: Facts) -> Tensor:
        """Return the similarity of samples (B,), the larger of the solvers'; see `InputCheck.score`."""
        starts = [mixed(x, next(noise), self.weight) for _ in range(self.copies)]
        path, found = suspect.schedule.path(self.steps), []
        for solver in SOLVERS[self.solver]:
            draw = noise.__next__ if solver == "ancestral" else None
            found.append(similarity([suspect.schedule.walk(start, suspect.eps, path, draw) for start in starts]))
        return torch.stack(found).amax(0)
