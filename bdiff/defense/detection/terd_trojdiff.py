"""TERD for TrojDiff (Mo et al. 2024, arXiv 2409.05294; checked against the authors' code): a scale of the noise too."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from bdiff.common.device import to_device
from bdiff.common.seeds import generator
from bdiff.config.rules import above, below_one
from bdiff.defense.base import Inversion, Suspect
from bdiff.defense.detection.terd import Terd, terd_loss
from bdiff.diffusion.schedule import Schedule

REACH = 0.8  # of the schedule, from which the authors' sampler of images starts


def noised(schedule: Schedule, images: Tensor, eps: Tensor, t: Tensor, gamma: Tensor, mu: Tensor) -> Tensor:
    """Return sqrt(abar_t) x0 + sqrt(1 - abar_t) (gamma eps + mu), TrojDiff's x_t (B,C,H,W) at t (B,).

    The authors' code adds mu without its factor, which is about 1 at the timesteps where it does so.
    """
    return schedule.add_noise(images, gamma * eps + mu, t)


def images_from(suspect: Suspect, eps: Tensor, gamma: Tensor, mu: Tensor, steps: int) -> Tensor:
    """Return images (B,C,H,W), not clipped, from gamma eps + mu by DDIM in TrojDiff's noise; differentiable.

    As the authors have it, timesteps are squares of evenly spaced numbers, and end at `REACH` of the schedule.
    """
    schedule = suspect.schedule
    squares = torch.linspace(0, math.sqrt(REACH * len(schedule)), steps).square().int().tolist()
    path = [*sorted({*squares}, reverse=True), -1]
    return schedule.walk(gamma * eps + mu, lambda x, t: gamma * suspect.eps(x, t) + mu, path)


@dataclass
class TerdTrojDiff(Terd):
    """Finds the gamma and mu for which the model's errors on two noisings x_t with noise gamma eps + mu are the same.

    gamma starts from 0. Where it is 1 and mu anything a clean model explains its noise too, so gamma tells the two.
    Samples are drawn from gamma eps + mu in the attack's variables, by an ODE sampler.
    """

    scale_lr: Annotated[float, above(0), "of SGD for the scale of the noise, at the start of either cosine"] = 0.002
    momentum: Annotated[float, below_one, "of SGD in the refinement"] = 0.9

    def invert(self, suspect: Suspect, seed: int, watch: Callable[[str], None] = lambda line: None) -> Inversion:
        """Return mu and gamma after the refinement; see `Terd.invert`."""
        last, draws = len(suspect.schedule), generator(seed, "terd")
        mu = (-torch.rand(suspect.shape, generator=draws)).to(suspect.device).requires_grad_()
        gamma = torch.zeros_like(mu).requires_grad_()
        nothing = torch.zeros_like(mu)

        def gap(images: Tensor, shift: Tensor, first: int) -> Tensor:
            t = torch.randint(first, first + self.window, (len(images),), generator=draws)
            t = to_device(t, suspect.device).repeat(2)
            eps = suspect.noise(len(t), draws)
            x = noised(suspect.schedule, images.repeat(2, 1, 1, 1), eps, t, gamma, shift)
            return terd_loss(eps, suspect.eps(x, t))

        def estimation() -> Tensor:
            gamma.data.clamp_(min=0)
            return gap(suspect.noise(self.batch, draws), mu, last - self.window)

        def refinement() -> Tensor:
            gamma.data.clamp_(min=0)
            images = images_from(suspect, suspect.noise(self.batch, draws), gamma, mu, self.ddim_steps)
            return (gap(images, mu, last - self.window) + gap(images, nothing, 0)) / 2

        def sgd(momentum: float) -> torch.optim.Optimizer:
            groups = [{"params": [mu], "lr": self.lr}, {"params": [gamma], "lr": self.scale_lr}]
            return torch.optim.SGD(groups, momentum=momentum)

        curve = self.descend(mu, sgd(0.0), estimation, self.steps, math.inf, watch)
        curve += self.descend(mu, sgd(self.momentum), refinement, self.refine_steps, self.clip_norm, watch)
        return Inversion(mu.detach().cpu(), curve, gamma=gamma.detach().clamp(min=0).cpu(), family="ode")
