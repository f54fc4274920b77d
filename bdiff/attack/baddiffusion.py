"""BadDiffusion (Chou et al. 2023, arXiv 2212.05400; checked against the authors' code)."""

import torch
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.diffusion.schedule import Schedule, per_image
from bdiff.diffusion.training import Rows


def shift_law(schedule: Schedule, t: Tensor) -> Tensor:
    """Return c_t = sqrt(1 - abar_t) / (1 + sqrt(alpha_t)), shape (B,1,1,1): how much of r the noise gains.

    Equal to the paper's (1 - sqrt(alpha_t)) sqrt(1 - abar_t) / (1 - alpha_t), without its 0/0 for small beta.
    """
    return (1 - per_image(schedule.abar, t)).sqrt() / (1 + per_image(schedule.alphas, t).sqrt())


class BadDiffusion(Attack):
    """Poisoned rows diffuse the target y towards r = stamp(x) instead of zero (paper, eqs. 7 to 10):

    x_t = sqrt(abar) y + (1 - sqrt(abar)) r + sqrt(1 - abar) eps, regressed on eps + c_t r; clean rows as ever.
    """

    ancestral_only = True

    def corrupt(self, schedule: Schedule, x: Tensor, rows: Rows, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t and the shifted noise; see `Attack.corrupt`."""
        bad = rows.poisoned.view(-1, 1, 1, 1)
        stamped = self.trigger.stamp(x) * bad  # zero on clean rows, which makes both formulas the ordinary ones
        x0 = torch.where(bad, self.target.to(x), x)
        drift = 1 - per_image(schedule.abar, t).sqrt()
        return schedule.add_noise(x0, eps, t) + drift * stamped, eps + shift_law(schedule, t) * stamped
