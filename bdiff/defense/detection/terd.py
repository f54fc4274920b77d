"""TERD (Mo et al. 2024, arXiv 2409.05294; checked against the authors' code): a trigger by the errors it explains."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from bdiff.common.device import to_device
from bdiff.common.seeds import generator
from bdiff.config.rules import above, at_least, auto_or_number
from bdiff.defense.base import Detection, Inversion, Suspect
from bdiff.defense.detection.curve import Curve
from bdiff.defense.detection.evidence import LEAST, kl_of, log_likelihood_ratio
from bdiff.diffusion.mode import Work


def terd_loss(eps: Tensor, predicted: Tensor) -> Tensor:
    """Return 1/2 E ||(e1 - p1) - (e2 - p2)||^2, a sum over pixels and a mean over images.

    eps and predicted are (2B,C,H,W): the noise of the same B images twice, and the model's predictions.
    """
    first, second = (eps - predicted).chunk(2)
    return 0.5 * (first - second).square().sum((1, 2, 3)).mean()


def ddim(suspect: Suspect, x: Tensor, steps: int) -> Tensor:
    """Return images (B,C,H,W) in [-1,1] from x_T after `steps` DDIM steps, differentiable.

    As in diffusers' DDIMScheduler by default, which the authors use: from t = T - T/steps on, x0 clipped at every step.
    """
    stride = len(suspect.schedule) // steps
    for step in reversed(range(steps)):
        t = torch.full((len(x),), step * stride, device=x.device)
        eps = suspect.eps(x, t)
        x0 = suspect.schedule.x0(x, eps, t).clamp(-1, 1)
        x = suspect.schedule.add_noise(x0, eps, t - stride) if step else x0
    return x


def is_backdoored(x: Tensor, mu: Tensor, gamma: Tensor | None = None) -> Tensor:
    """Return TERD's input check, (B,) bool: starting noise x (B,C,H,W) likelier from N(mu, gamma^2) than from N(0, I).

    gamma (C,H,W) is 1 by default. The authors' code has it as the covariance, of which it is the root.
    """
    return log_likelihood_ratio(x, mu, None if gamma is None else gamma.clamp(min=LEAST)) > 0


@dataclass
class Terd(Detection):
    """Finds the mu for which the model's errors on two noisings of one image are the same.

    First on images of noise (estimation), then on images that the model generates from mu (refinement).
    """

    checks = ("bdiff.defense.check.window_problems", "bdiff.defense.check.divergence_problems")

    steps: Annotated[int, at_least(1), "of the estimation, on images of noise"]
    refine_steps: Annotated[int, at_least(0), "of the refinement, on images generated from the trigger"]
    batch: Annotated[int, at_least(1), "images"]
    lr: Annotated[float, above(0), "of SGD, at the start of either cosine"]
    gamma: Annotated[float, at_least(0), "weight of minus the trigger's L1 norm, which keeps it away from zero"]
    window: Annotated[int, at_least(1), "timesteps at the end of the schedule, and at its beginning"]
    ddim_steps: Annotated[int, at_least(1), "from the trigger to an image"]
    clip_norm: Annotated[float, above(0), "gradient norm to clip to in the refinement"]
    threshold: Annotated[float | None, auto_or_number, "minimum score of a flagged model; null: none is flagged"]

    shortened: ClassVar = ("steps", "refine_steps")

    @property
    def total(self) -> int:
        """See `Detection.total`."""
        return self.steps + self.refine_steps

    @property
    def alive(self) -> int:
        """See `Detection.alive`: in the refinement, gradients go through all calls of a step."""
        return math.ceil((self.ddim_steps + 4) / 2) if self.refine_steps else 1

    @property
    def work(self) -> Work:
        """See `Detection.work`."""
        return Work(
            self.batch * (2 * self.steps + (self.ddim_steps + 4) * self.refine_steps), 2 * self.batch, gradients=True
        )

    def invert(self, suspect: Suspect, seed: int, watch: Callable[[str], None] = lambda line: None) -> Inversion:
        """Return the trigger after the refinement; see `Detection.invert`. RunError if the loss is not finite."""
        last, draws = len(suspect.schedule), generator(seed, "terd")
        mu = (-torch.rand(suspect.shape, generator=draws)).to(suspect.device).requires_grad_()
        nothing = torch.zeros_like(mu)

        def gap(images: Tensor, shift: Tensor, first: int) -> Tensor:
            t = torch.randint(first, first + self.window, (len(images),), generator=draws)
            t = to_device(t, suspect.device).repeat(2)
            eps = suspect.noise(len(t), draws)
            x = suspect.schedule.add_noise(images.repeat(2, 1, 1, 1), eps, t) + shift
            return terd_loss(eps, suspect.eps(x, t))

        def estimation() -> Tensor:
            return gap(suspect.noise(self.batch, draws), mu, last - self.window)

        def refinement() -> Tensor:
            images = ddim(suspect, suspect.noise(self.batch, draws) + mu, self.ddim_steps)
            return (gap(images, mu, last - self.window) + gap(images, nothing, 0)) / 2

        curve = self.descend(mu, torch.optim.SGD([mu], self.lr), estimation, self.steps, math.inf, watch)
        sgd = torch.optim.SGD([mu], self.lr)
        curve += self.descend(mu, sgd, refinement, self.refine_steps, self.clip_norm, watch)
        return Inversion(mu.detach().cpu(), curve)

    def descend(
        self,
        mu: Tensor,
        optimizer: torch.optim.Optimizer,  # of mu, and of what else is sought
        loss: Callable[[], Tensor],
        steps: int,
        clip_norm: float,
        watch: Callable[[str], None],
    ) -> list[float]:
        """Minimize `loss` - gamma ||mu||_1 by the optimizer with a cosine to zero, and return the curve."""
        sought = [one for group in optimizer.param_groups for one in group["params"]]
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        curve = Curve("terd", self.lr, watch)
        for _ in range(steps):
            value = loss() - self.gamma * mu.abs().sum()
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(sought, clip_norm)
            optimizer.step()
            cosine.step()
            curve.add(value)
        return curve.values()

    def look(self, inversion: Inversion, samples: Tensor) -> dict[str, float]:
        """Return `kl_mean`, `kl_variance` and their sum as the score; see `Detection.look`. It reads no samples.

        The authors' model check prints both, each minus a constant, without a decision rule. Without a backdoor a large
        mu has no benefit, so either indicates one, and a calibrated threshold absorbs the constants.
        """
        divergence = kl_of(inversion.trigger, inversion.gamma)
        return {"score": sum(divergence.values()), **divergence}
