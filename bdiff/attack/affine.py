"""Attacks whose trigger scales and shifts the noise: TrojDiff's form (Chen et al. 2023, arXiv 2303.05762)."""

from abc import abstractmethod

import torch
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import Draw, Noised, Rows
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.view import AffineView, ShiftedNoise, View


class AffineAttack(Attack):
    """Poisoned rows diffuse the target in noise that is scaled and shifted by the trigger (paper, eqs. 7 and 11):

    x_t = sqrt(abar) x_0 + sqrt(1 - abar) (gamma eps + mu), regressed on eps; clean rows are unchanged. Samples start at
    gamma eps + mu, and any sampler follows in the variables of `AffineView`.
    """

    adds_pattern = False

    @property
    @abstractmethod
    def maps(self) -> tuple[Tensor, Tensor]:
        """The scale gamma, at least 0, and the shift mu of the noise, (C,H,W) each."""

    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return x_t with scaled and shifted noise on poisoned rows, and the plain noise; see `Attack.poison`."""
        t, eps = draw.t(), draw.eps()
        bad = rows.poisoned.view(-1, 1, 1, 1)
        x0 = torch.where(bad, self.target.to(rows.x), rows.x) if self.label is None else rows.x
        return Noised(schedule.add_noise(x0, torch.where(bad, self.prior(eps), eps), t), t, eps)

    def prior(self, eps: Tensor) -> Tensor:
        """Return gamma eps + mu; see `Attack.prior`."""
        gamma, mu = self.maps
        return gamma.to(eps) * eps + mu.to(eps)

    def view(self, denoiser: Denoiser) -> View:
        """Return the variables of any sampler, or where gamma is 0 somewhere those of ODE samplers; see `Attack`."""
        gamma, mu = self.maps
        return (AffineView if bool((gamma > 0).all()) else ShiftedNoise)(denoiser, gamma, mu)

    def apply(self, x: Tensor) -> Tensor:
        """Return gamma x + mu, images blended with the trigger as noise is, clamped to [-1,1]; see `Attack.apply`."""
        return self.prior(x).clamp(-1, 1)
