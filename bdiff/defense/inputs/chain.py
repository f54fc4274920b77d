"""The short sampler of input checks, as a defender runs it: in x itself, since no attack's variables are known."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from bdiff.diffusion.denoiser import Suspect


def denoised(
    suspect: Suspect,
    x: Tensor,
    steps: int,
    draw: Callable[[], Tensor] | None = None,
    watch: Callable[[Tensor], None] = lambda eps: None,
) -> Tensor:
    """Return images (B,C,H,W), not clamped, from starting noises x (B,C,H,W) in `steps` evenly spaced steps.

    By DDIM, or by ancestral steps with the sampler's own noise (B,C,H,W) from `draw`. `watch` gets the noise that the
    suspect predicts at each step.
    """
    for t, to in pairwise(suspect.schedule.path(steps)):
        eps = suspect.eps(x, t)
        watch(eps)
        x = suspect.schedule.step(x, eps, t, to, draw() if draw and to >= 0 else None)  # the last one has no variance
    return x
