"""Attacks on a classifier, shielded or not: our own PGD with EOT, and AutoAttack's APGD if it is installed.

Why our own PGD: of the maintained libraries torchattacks 3.5.1 (2023-10) pins requests to 2.25, which downgrades
urllib3 to 1.26; foolbox 3.3.4 (2024-03) imports a part of SciPy that SciPy 2 removes, and its EOT averages logits, not
gradients; adversarial-robustness-toolbox 1.20.1 (2025-07) converts to numpy and has EOT only over image
transformations. All use the global random state, so an attack would depend on what ran before it. AutoAttack is
published as pyautoattack 0.2.0 (2024-12), depends only on torch, and has the EOT that random shields need: `apgd`.

Units: images are in [-1,1]; `eps` and `step` are for images in [0,1], as papers give them, and are doubled here, in
both norms: eps = 8/255 moves a pixel by up to 16/255 in [-1,1], and an L2 eps of 0.5 is 1.0 there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bdiff.common.device import to_device
from bdiff.common.errors import RunError
from bdiff.defense.base import Logits

NORMS = {"linf": "Linf", "l2": "L2"}  # ours, and pyautoattack's names


class Ball(NamedTuple):
    """The maximum distance of an adversarial image from the original."""

    norm: str  # linf or l2
    eps: float  # radius, for images in [0,1]


@torch.no_grad()
def pgd(
    logits: Logits,
    x: Tensor,  # (B,C,H,W) in [-1,1]
    y: Tensor,  # (B,) int64, the true labels
    *,
    ball: Ball,
    step: float,  # step size, in the same units
    steps: int,
    eot: int,  # draws that a gradient is averaged over; 1 for a deterministic classifier
    generator: torch.Generator | Sequence[torch.Generator],  # of the start; one per image makes starts independent
) -> Tensor:
    """Return adversarial images (B,C,H,W) in [-1,1], within eps of x: projected gradient ascent from a random start.

    Madry et al. 2018; the gradient of the loss is averaged over `eot` calls of `logits` (Athalye et al. 2018). The last
    point is returned: choosing among points by a random loss would be biased towards lucky ones.
    """
    norm, eps = ball.norm, ball.eps
    x_adv = (x + start(x, norm, 2 * eps, generator)).clamp(-1, 1)
    for _ in range(steps):
        gradient = mean_gradient(logits, x_adv, y, eot)
        ascent = gradient.sign() if norm == "linf" else gradient / lengths(gradient)
        x_adv = (x + project(x_adv + 2 * step * ascent - x, norm, 2 * eps)).clamp(-1, 1)
    return x_adv


def mean_gradient(logits: Logits, x: Tensor, y: Tensor, eot: int) -> Tensor:
    """Return the gradient (B,C,H,W) at x of each image's cross-entropy, averaged over `eot` calls of `logits`."""
    total = torch.zeros_like(x)
    for _ in range(eot):  # sequentially, so that memory does not grow with eot
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            loss = cross_entropy(logits(point), y, reduction="sum")
        total += torch.autograd.grad(loss, point)[0]
    return total / eot


def start(x: Tensor, norm: str, radius: float, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """Return points (B,C,H,W) drawn uniformly from the ball around zero; `generator` as in `pgd`, on the CPU."""
    size = x[0].numel()
    draw, width = (torch.rand, size) if norm == "linf" else (torch.randn, size + 2)
    if isinstance(generator, torch.Generator):
        points = draw((len(x), width), generator=generator)
    else:
        assert len(generator) == len(x), (len(generator), len(x))
        points = torch.stack([draw(width, generator=one) for one in generator])
    # All but two coordinates of a uniform point on the sphere are uniform in the ball (Voelker et al. 2017).
    points = 2 * points - 1 if norm == "linf" else (points / points.norm(dim=1, keepdim=True))[:, :size]
    return radius * to_device(points.view_as(x), x.device)


def project(delta: Tensor, norm: str, radius: float) -> Tensor:
    """Project delta (B,C,H,W) onto the ball."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    return delta * (radius / lengths(delta)).clamp(max=1)


def lengths(x: Tensor) -> Tensor:
    """Return the L2 norms of images as (B,1,1,1), bounded away from zero."""
    return x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)


def apgd(logits: Logits, x: Tensor, y: Tensor, *, ball: Ball, steps: int, eot: int, seed: int) -> Tensor:
    """Return adversarial images like `pgd`, by AutoAttack's APGD on the cross-entropy (Croce & Hein 2020).

    It adapts its step size, and returns the point of highest loss, by the last of the `eot` draws; so evaluate the
    result with new draws. The start depends on seed and batch.
    Raises RunError if pyautoattack is not installed.
    """
    try:
        from pyautoattack.autopgd_base import APGDAttack
    except ImportError as error:
        raise RunError("APGD needs pyautoattack: pip install 'bdiff[attacks]'") from error

    def halved(unit: Tensor) -> Tensor:
        return logits(2 * unit - 1)

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        attack = APGDAttack(halved, n_iter=steps, norm=NORMS[ball.norm], eps=ball.eps, eot_iter=eot, device=x.device)
        return 2 * attack.perturb((x + 1) / 2, y, best_loss=True) - 1


def cost(images: int, steps: int, eot: int, evaluations: int) -> int:
    """Return how many images the denoiser evaluates in `pgd`, to be reported before a long run.

    `evaluations` is `Purification.evaluations`. With the full gradient each has a backward pass, about as expensive,
    and with checkpointing a second forward pass; with BPDA there is nothing else.
    """
    return images * steps * eot * evaluations
