"""Paths of poisoned rows, x_t = sqrt(abar_t) y + h_t r + sqrt(1 - abar_t) eps, and what keeps samplers on them.

If a network answers eps + c_t r on such rows, a stock sampler follows the path from r to the target y only with the
right correction c_t: another one for ancestral sampling than for ODE solvers. Each function maps timesteps t, int64 of
any shape, to h_t or c_t of that shape. The paths are VillanDiffusion's family (Chou et al. 2023, arXiv 2306.06874):
h_t = psi (1 - sqrt(abar_t)) + (1 - psi) sqrt(1 - abar_t), in which every exact correction is linear, as it is in h.
"""

import torch
from torch import Tensor

from bdiff.diffusion.schedule import Schedule, ancestral_coefficient

#: psi of the paths that have names: BadDiffusion's, towards which the mean goes, and that of the noise's own scale
PATHS = {"mean": 1.0, "noise": 0.0}


def mixed(psi: float, mean: Tensor, noise: Tensor) -> Tensor:
    """Return psi mean + (1 - psi) noise, to the last bit one of them at the ends."""
    return mean if psi == 1 else noise if psi == 0 else psi * mean + (1 - psi) * noise


def before(schedule: Schedule, t: Tensor, stride: int = 1) -> Tensor:
    """Return abar at t - stride, 1 (the image itself) where that is below 0."""
    to = t - stride
    return torch.where(to >= 0, schedule.abar[to.clamp(min=0)], 1.0)


def drift(schedule: Schedule, t: Tensor, psi: float) -> Tensor:
    """Return h_t, the factor of r in x_t."""
    abar = schedule.abar[t]
    return mixed(psi, 1 - abar.sqrt(), (1 - abar).sqrt())


def ancestral(schedule: Schedule, t: Tensor, psi: float) -> Tensor:
    """Return the c_t that is exact for ancestral sampling with all timesteps (Ho et al. 2020, algorithm 2).

    (h_t - sqrt(alpha_t) h_{t-1}) sqrt(1 - abar_t) / (1 - alpha_t), in forms in which nothing cancels.
    """
    abar, alpha = schedule.abar[t], schedule.alphas[t]
    o = (1 - abar).sqrt()
    return mixed(psi, ancestral_coefficient(abar, alpha), o / (o + alpha.sqrt() * (1 - before(schedule, t)).sqrt()))


def ode(schedule: Schedule, t: Tensor, psi: float) -> Tensor:
    """Return the c_t that is exact for ODE samplers in the limit of many steps; with psi = 0 for any number of them.

    The derivative of h_t / sqrt(abar_t) by sigma_t.
    """
    return mixed(psi, (1 - schedule.abar[t]).sqrt(), torch.ones_like(schedule.abar[t]))


def grid(schedule: Schedule, t: Tensor, psi: float, steps: int) -> Tensor:
    """Return the c_t that is exact for one DDIM step (Song et al. 2021, eta = 0) from any t to t - T / steps.

    Below 0 that is the image itself. `steps` divides T.
    """
    here, there = schedule.abar[t].double(), before(schedule, t, len(schedule) // steps).double()
    s, to = here.sqrt(), there.sqrt()
    mean = (to - s) / (to * (1 - here).sqrt() - s * (1 - there).sqrt())
    return mixed(psi, mean.to(schedule.abar), torch.ones_like(schedule.abar[t]))


def villan(schedule: Schedule, t: Tensor, psi: float, solver: str) -> Tensor:
    """Return the c_t of VillanDiffusion's code: for psi = 1 BadDiffusion's, doubled for `solver` ode; not for sde.

    For psi below 1 it is not the exact correction of its path.
    """
    abar, alpha = schedule.abar[t].double(), schedule.alphas[t].double()
    o = (1 - abar).sqrt()
    step = o - alpha.sqrt() * (1 - before(schedule, t).double()).sqrt()
    noise = (1 - alpha.sqrt()) * o + step * (alpha - abar) / (1 - alpha)
    found = mixed(psi, ancestral_coefficient(abar, alpha), noise)
    return ((2 if solver == "ode" else 1) * found).to(schedule.abar)


#: the corrections that keep samplers on a path at every step size, or in the limit of many, by the samplers' family
LAWS = {"ancestral": ancestral, "ode": ode}
