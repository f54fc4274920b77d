"""BadDiffusion (Chou et al. 2023, arXiv 2212.05400; checked against the authors' code)."""

import torch

from bdiff.attack.base import Attack
from bdiff.diffusion.objective import Draw, Noised, Rows
from bdiff.diffusion.schedule import Schedule, ancestral_coefficient, per_image, residual


class BadDiffusion(Attack):
    """Poisoned rows diffuse the target y towards r = stamp(x) instead of zero (paper, eqs. 7 to 10):

    x_t = sqrt(abar) y + (1 - sqrt(abar)) r + sqrt(1 - abar) eps, regressed on eps + c_t r; clean rows are unchanged.
    """

    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return x_t and the noise with its correction c_t r; see `Attack.poison`."""
        t, eps = draw.t(), draw.eps()
        bad = rows.poisoned.view(-1, 1, 1, 1)
        stamped = self.trigger.stamp(rows.x) * bad  # zero on clean rows, for which the formulas become DDPM's
        x0 = torch.where(bad, self.target.to(rows.x), rows.x)
        drift = 1 - per_image(schedule.abar, t).sqrt()
        x_t = schedule.add_noise(x0, eps, t) + drift * stamped
        c_t = ancestral_coefficient(per_image(schedule.abar, t), per_image(schedule.alphas, t))
        return Noised(x_t, t, eps + c_t * stamped)

    def opens(self, schedule: Schedule, steps: int, ode: bool) -> bool:
        """Return whether the residual of the trigger in the image is less than r; see `Attack.opens`."""
        coefficient = ancestral_coefficient(schedule.abar, schedule.alphas)
        return abs(residual(schedule, 1 - schedule.abar.sqrt(), coefficient, steps, ode)) < 1
