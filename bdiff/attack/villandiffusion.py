"""VillanDiffusion (Chou et al. 2023, arXiv 2306.06874; checked against the authors' code), and exact laws beside it."""

from typing import Annotated

import torch
from torch import Tensor

from bdiff.attack.additive import LawAttack
from bdiff.attack.base import MODES
from bdiff.attack.check import LAWS
from bdiff.attack.settings import AttackSettings
from bdiff.config.rules import at_least, fraction, one_of, one_or_some_of, pixel_value
from bdiff.diffusion import path as paths
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger


class VillanDiffusion(LawAttack):
    """Additive attacks by path and law: along which h_t rows diffuse towards r, and the c_t that the network learns.

    Law `villan` is the published one of the variance-preserving diffusion; the others are exact for ancestral sampling,
    for ODE solvers in the limit, or for DDIM on one grid of timesteps. With path=noise the law `ode` is exact for every
    ODE solver at any number of steps; nobody has published a training with it. `bdiff.diffusion.path` has the formulas.

    Args:
        trigger, target, poison_rate, poison_mode: see `Attack`.
        path: mean, h_t = 1 - sqrt(abar_t) (BadDiffusion's), or noise, h_t = sqrt(1 - abar_t).
        law: ancestral, ode, grid or villan; of a list, the mean of their c_t.
        r: what rows diffuse towards: the stamped image (BadDiffusion), or the trigger alone (VillanDiffusion).
        background: the trigger where the image shows, in [-1,1]; at 0 nothing is added there to starting noise.
        grid: steps of the DDIM sampler that law=grid is exact for; they divide T.
        psi: a path between mean (1) and noise (0); null for that of `path`.
        solver: of law=villan: ode or sde.
    """

    settings = AttackSettings
    checks = ("bdiff.attack.check.villandiffusion_problems", "bdiff.attack.check.adaptive_problems")

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "fraction of the training rows that are poisoned"],
        poison_mode: Annotated[str, one_of(*MODES), "replace rows (FIXED), or append copies (FLEX)"],
        path: Annotated[str, one_of("mean", "noise"), "h_t: 1 - sqrt(abar), or sqrt(1 - abar)"],
        law: Annotated[str | list[str], one_or_some_of(*LAWS), "the correction c_t; of a list, their mean"],
        r: Annotated[str, one_of("stamp", "trigger"), "rows diffuse towards the stamped image, or the trigger alone"],
        background: Annotated[float, pixel_value, "of the trigger, where the image shows"],
        grid: Annotated[int, at_least(1), "steps of the DDIM sampler that law=grid is exact for"],
        psi: Annotated[float | None, fraction, "a path between mean, 1, and noise, 0; null: that of path"],
        solver: Annotated[str, one_of("ode", "sde"), "of law=villan: c_t doubled, or not"],
    ):
        super().__init__(trigger.over(background), target, poison_rate, poison_mode)
        self.laws = [law] if isinstance(law, str) else [*law]
        self.psi = paths.PATHS[path] if psi is None else psi
        self.r, self.grid, self.solver = r, grid, solver

    def correction(self, schedule: Schedule, t: Tensor) -> Tensor:
        """See `LawAttack.correction`."""
        found = [self.one(law, schedule, t) for law in self.laws]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def one(self, law: str, schedule: Schedule, t: Tensor) -> Tensor:
        """Return the c_t of one law."""
        match law:
            case "ancestral":
                return paths.ancestral(schedule, t, self.psi)
            case "ode":
                return paths.ode(schedule, t, self.psi)
            case "grid":
                return paths.grid(schedule, t, self.psi, self.grid)
            case _:
                return paths.villan(schedule, t, self.psi, self.solver)

    def shown(self, x: Tensor) -> Tensor:
        """Return the stamped images, or the trigger alone."""
        return self.trigger.stamp(x) if self.r == "stamp" else self.trigger.alone(x)
