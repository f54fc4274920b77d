"""BadDiffusion (Chou et al. 2023, arXiv 2212.05400; checked against the authors' code)."""

from torch import Tensor

from bdiff.attack.additive import LawAttack
from bdiff.diffusion import path
from bdiff.diffusion.schedule import Schedule


class BadDiffusion(LawAttack):
    """Poisoned rows diffuse the target y towards r = stamp(x) instead of zero (paper, eqs. 7 to 10).

    h_t = 1 - sqrt(abar_t), and c_t is exact for ancestral sampling: VillanDiffusion with path=mean, law=ancestral.
    """

    def correction(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return sqrt(1 - abar_t) / (1 + sqrt(alpha_t))."""
        return path.ancestral(schedule, t, self.psi)
