"""Purification (DiffPure, Nie et al. 2022, arXiv 2205.07460): noise an image, denoise it, and classify the result.

An attacker who knows the shield can differentiate through it: the gradient is exact, and with
`Suspect(recompute=True).eps` as the denoiser the graph stores one image per step instead of the network's activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from bdiff.common.seeds import generator
from bdiff.config.rules import at_least, one_of
from bdiff.defense.base import Eps, LabelShield, Logits
from bdiff.diffusion.noise import Noise
from bdiff.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Purification(LabelShield):
    """How images are purified.

    With several copies of an image the mean of their logits decides: unlike a majority it has no ties and has a
    gradient, so that an adaptive attack optimizes the function that is evaluated.
    """

    checks = ("bdiff.defense.check.purification_problems",)

    t: Annotated[int, at_least(1), "t*: images are noised to timestep t* - 1, and denoised over t* timesteps"]
    sampler: Annotated[str, one_of("ancestral", "ddim"), "ddim is the probability flow ODE"]
    steps: Annotated[int | None, at_least(1), "denoising steps, evenly spaced over the t*; null: all"]
    copies: Annotated[int, at_least(1), "purified copies of an image, whose mean logits decide"]

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if t* is beyond the schedule; see `Shield.check`."""
        if self.t > len(schedule):
            raise ValueError(f"defense.t={self.t} is beyond the schedule's {len(schedule)} timesteps")

    def noise_problem(self, schedule: Schedule, eps: float) -> str | None:
        """Return the problem that the noise is less than half of eps; see `LabelShield.noise_problem`."""
        sigma = float(schedule.sigmas[self.t - 1]) / 2  # images in [-1,1] are twice as wide
        return f"defense.t={self.t} adds noise of {sigma:.2g}" if sigma < eps / 2 else None

    @property
    def path(self) -> list[int]:
        """The timesteps of the denoising, from t* - 1 down to -1, which is the image itself."""
        steps = self.steps or self.t
        return [self.t - 1 - self.t * step // steps for step in range(steps + 1)]

    @property
    def evaluations(self) -> int:
        """The number of images that the network evaluates for one label."""
        return self.copies * (len(self.path) - 1)

    def purify(self, x: Tensor, eps: Eps, schedule: Schedule, noise: Noise) -> Tensor:
        """Return one purified copy (B,C,H,W) of each image in [-1,1]; not clamped, to preserve the gradient.

        Args:
            x: (B,C,H,W) in [-1,1].
            eps: the denoiser.
            schedule: its noise schedule, on the device of x.
            noise: per image, so that no image's noise depends on the rest of the batch.
        """
        assert len(noise) == len(x), (len(noise), len(x))
        x_t = schedule.add_noise(x, next(noise), self.path[0])
        for t, to in pairwise(self.path):
            drawn = self.sampler == "ancestral" and to >= 0  # the last step has no variance
            if drawn:
                noise.ahead()
            predicted = eps(x_t, t)
            x_t = schedule.step(x_t, predicted, t, to, next(noise) if drawn else None)
        return x_t


class PassThrough(torch.autograd.Function):
    """BPDA (Athalye et al. 2018, section 4.1): `answer` in the forward pass, the identity in x in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, answer: Tensor) -> Tensor:
        """Return `answer`, which has the shape of x."""
        return answer.view_as(answer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient unchanged, for x only."""
        return gradients[0], None


class Shielded:
    """A classifier behind purification, as users query it (`labels`) and as attackers do (`attacked`).

    Args:
        shield: how images are purified.
        eps: the denoiser; for an ensemble the mean of its members.
        schedule: the denoiser's, on the device.
        classifier: of images in [-1,1]; set to eval mode, with frozen weights.
        seed: of all noise.
        bpda: treat the purification as the identity in the backward pass, instead of using its full gradient.

    Raises ValueError if t* is beyond the schedule.
    """

    def __init__(
        self,
        shield: LabelShield,
        eps: Eps,
        schedule: Schedule,
        classifier: nn.Module,
        *,
        seed: int,
        bpda: bool = False,
    ):
        shield.check(schedule)
        self.shield, self.eps, self.schedule = shield, eps, schedule
        self.classifier = classifier.eval().requires_grad_(False)
        self.seed, self.bpda = seed, bpda

    def purified(self, x: Tensor, noise: Noise) -> Tensor:
        """Return one purified copy (B,C,H,W) of each image; see `LabelShield.purify`."""
        if not self.bpda:
            return self.shield.purify(x, self.eps, self.schedule, noise)
        with torch.no_grad():
            answer = self.shield.purify(x, self.eps, self.schedule, noise)
        return PassThrough.apply(x, answer)

    def logits(self, x: Tensor, noise: Noise) -> Tensor:
        """Return (B, classes) logits, the mean over the copies; `noise` yields that of each copy in turn."""
        copies = self.shield.copies
        return self.classifier(self.purified(x.repeat(copies, 1, 1, 1), noise)).view(copies, len(x), -1).mean(0)

    def noise(self, purpose: str, indices: Sequence[int], x: Tensor, copies: int | None = None) -> Noise:
        """Return the noise of every copy of the images `indices`: a function only of seed, purpose, index and copy.

        It has the shape and device of x (B,C,H,W); `copies` defaults to all.
        """
        all_copies = range(copies or self.shield.copies)
        draws = [generator(self.seed, purpose, index, copy) for copy in all_copies for index in indices]
        return Noise(draws, x.shape[1:], x.device)

    def attacked(self, indices: Sequence[int]) -> Logits:
        """Return the shield as an attacker of the images `indices` queries it, without knowing the noise of `labels`.

        Every call has new noise, which depends on seed, index and the number of the call, not on the batch.
        """
        noise: Noise | None = None

        def logits(x: Tensor) -> Tensor:
            nonlocal noise
            noise = noise or self.noise("attack", indices, x)
            return self.logits(x, noise)

        return logits

    @torch.inference_mode()
    def labels(self, x: Tensor, indices: Sequence[int]) -> Tensor:
        """Return the labels (B,) of the images `indices` of their dataset, the same in every call."""
        return self.logits(x, self.noise("purify", indices, x)).argmax(1)

    @torch.inference_mode()
    def images(self, x: Tensor, indices: Sequence[int]) -> Tensor:
        """Return the first purified copy of each image (B,C,H,W) that `labels` classifies."""
        return self.purified(x, self.noise("purify", indices, x, copies=1))
