"""Attacks whose poisoned rows diffuse the target towards an additive r, along a path that samplers follow."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.diffusion import path
from bdiff.diffusion.denoiser import target_of
from bdiff.diffusion.objective import Draw, Noised, Rows
from bdiff.diffusion.schedule import Schedule, residual

#: the factor of r in a network's target, beside images in [-1,1], from which on training is warned of
LARGE = 10.0


class AdditiveAttack(Attack):
    """Poisoned rows are x_t = sqrt(abar_t) y + h r + sqrt(1 - abar_t) eps, regressed on eps + c r.

    Clean rows are DDPM's. A subclass says what h, c and r are.
    """

    @abstractmethod
    def factors(self, schedule: Schedule, t: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return h and c (B,) of rows at timesteps t (B,); what is random in them comes from `draw`."""

    def shown(self, x: Tensor) -> Tensor:
        """Return r (B,C,H,W) for the images x (B,C,H,W) in [-1,1] of poisoned rows: the stamped image by default."""
        return self.trigger.stamp(x)

    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return x_t and the noise with its correction c r; see `Attack.poison`."""
        t, eps = draw.t(), draw.eps()
        h, c = (factor.view(-1, 1, 1, 1) for factor in self.factors(schedule, t, draw))
        bad = rows.poisoned.view(-1, 1, 1, 1)
        r = self.shown(rows.x) * bad  # zero on clean rows, for which the formulas become DDPM's
        x0 = torch.where(bad, self.target.to(rows.x), rows.x)
        return Noised(schedule.add_noise(x0, eps, t) + h * r, t, eps + c * r)


class LawAttack(AdditiveAttack):
    """An additive attack whose h and c are functions of the timestep: a path, and the law that keeps samplers on it."""

    #: of the path, see `bdiff.diffusion.path`; 1 is BadDiffusion's
    psi: float = 1.0

    def drift(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return h_t of timesteps t, int64 of any shape."""
        return path.drift(schedule, t, self.psi)

    @abstractmethod
    def correction(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return c_t of timesteps t, int64 of any shape."""

    def factors(self, schedule: Schedule, t: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return h_t and c_t; see `AdditiveAttack.factors`."""
        return self.drift(schedule, t), self.correction(schedule, t)

    def prediction_problem(self, schedule: Schedule, prediction: str) -> str | None:
        """Return that poisoned rows ask x0 or v for many times r, as laws for ancestral samplers do; see `Attack`.

        At timestep T-1 that is (h - o c) / s in x0 and (c - o h) / s in v.
        """
        t = torch.tensor([len(schedule) - 1], device=schedule.abar.device)
        h, c = (factor.view(-1, 1, 1, 1) for factor in (self.drift(schedule, t), self.correction(schedule, t)))
        asked = abs(target_of(prediction, schedule, h, c, t).item())
        if asked <= LARGE:
            return None
        return (
            f"at the last timestep poisoned rows ask a network that predicts {prediction} for {asked:.0f} times the "
            "trigger: the law is for networks that predict epsilon"
        )

    def left(self, schedule: Schedule, steps: int, eta: float) -> float:
        """Return how much of r samplers leave in the image, open loop: see `residual`."""
        t = torch.arange(len(schedule), device=schedule.abar.device)
        c = self.correction(schedule, t)
        return residual(schedule, self.drift(schedule, t[-1]), lambda _, t: c[t], steps, eta)

    def opens(self, schedule: Schedule, steps: int, eta: float) -> bool:
        """Return whether less than r itself is left in the image; see `Attack.opens`."""
        return abs(self.left(schedule, steps, eta)) < 1


class AddedTrigger(LawAttack):
    """A law attack whose trigger, bounded and without a mask, is added: to noise, and to what a classifier is shown.

    Rows diffuse the target towards the trigger alone.
    """

    def shown(self, x: Tensor) -> Tensor:
        """Return the trigger alone."""
        return self.trigger.alone(x)

    def apply(self, x: Tensor) -> Tensor:
        """Return x with the trigger added, clamped to [-1,1]; see `Attack.apply`."""
        return (x + self.trigger.pattern.to(x)).clamp(-1, 1)


def bounded(pattern: Tensor, bound: float) -> Tensor:
    """Return a trigger's pattern clamped to [-b,b], b the `level` of `bound`."""
    return pattern.clamp(-level(bound), level(bound))


def level(bound: float) -> float:
    """Return the largest value up to `bound` that a picture of 8 bits has, as which a learned trigger is kept."""
    return math.floor(127.5 * (1 + bound) + 1e-6) / 127.5 - 1
