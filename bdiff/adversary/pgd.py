"""Attacks on a classifier, shielded or not: PGD with EOT, our own, and AutoAttack's APGD where it is installed.

Why our own PGD: of the kept libraries torchattacks 3.5.1 (2023-10) pins requests to 2.25, which takes urllib3 back to
1.26; foolbox 3.3.4 (2024-03) imports a part of SciPy that SciPy 2 drops, and its EOT averages logits, not gradients;
adversarial-robustness-toolbox 1.20.1 (2025-07) goes through numpy and has EOT over image transformations only. All
draw from the global random state, so an attack would depend on what ran before it. AutoAttack is published as
pyautoattack 0.2.0 (2024-12), needs nothing but torch, and has the EOT that a randomised shield calls for: `apgd`.

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
    """How far an adversarial image may be from its own."""

    norm: str  # linf or l2
    eps: float  # radius, for images in [0,1]


@torch.no_grad()
def pgd(
    logits: Logits,
    x: Tensor,  # (B,C,H,W) in [-1,1]
    y: Tensor,  # (B,) int64, the labels to get away from
    *,
    ball: Ball,
    step: float,  # length of a step, in the same units
    steps: int,
    eot: int,  # draws that a gradient is averaged over; 1 for a classifier that is not random
    generator: torch.Generator | Sequence[torch.Generator],  # of the start; one per image: no start depends on others
) -> Tensor:
    """Return adversarial images (B,C,H,W) in [-1,1], within eps of x: projected gradient ascent from a random start.

    Madry et al. 2018; the gradient of the loss is averaged over `eot` calls of `logits` (Athalye et al. 2018). It is
    the last point that is returned: to choose among points by a random loss would favour the lucky ones.
    Raises ValueError for an unknown norm.
    """
    norm, eps = ball.norm, ball.eps
    check(norm)
    x_adv = (x + start(x, norm, 2 * eps, generator)).clamp(-1, 1)
    for _ in range(steps):
        gradient = mean_gradient(logits, x_adv, y, eot)
        ascent = gradient.sign() if norm == "linf" else gradient / lengths(gradient)
        x_adv = (x + project(x_adv + 2 * step * ascent - x, norm, 2 * eps)).clamp(-1, 1)
    return x_adv


def mean_gradient(logits: Logits, x: Tensor, y: Tensor, eot: int) -> Tensor:
    """Return the gradient (B,C,H,W) at x of each image's cross-entropy, averaged over `eot` calls of `logits`."""
    total = torch.zeros_like(x)
    for _ in range(eot):  # one after the other, so that memory does not grow with eot
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            loss = cross_entropy(logits(point), y, reduction="sum")
        total += torch.autograd.grad(loss, point)[0]
    return total / eot


def start(x: Tensor, norm: str, radius: float, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """Return points (B,C,H,W) drawn uniformly from the ball around zero; `generator` as `pgd` has it, on the CPU."""
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
    """Return the point of the ball nearest to each of delta (B,C,H,W)."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    return delta * (radius / lengths(delta)).clamp(max=1)


def lengths(x: Tensor) -> Tensor:
    """Return the L2 norms of images as (B,1,1,1), never zero."""
    return x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)


def check(norm: str) -> None:
    """Raise ValueError for an unknown norm."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm} is not known: choose from {', '.join(NORMS)}")


def apgd(logits: Logits, x: Tensor, y: Tensor, *, ball: Ball, steps: int, eot: int, seed: int) -> Tensor:
    """Return adversarial images as `pgd` does, by AutoAttack's APGD on the cross-entropy (Croce & Hein 2020).

    It chooses its own step lengths, and the point of highest loss; the loss it goes by is that of the last of the
    `eot` draws, so let the shield vote again on what comes out. The start depends on seed and batch.
    Raises ValueError for an unknown norm, RunError if pyautoattack is not installed.
    """
    norm, eps = ball.norm, ball.eps
    check(norm)
    try:
        from pyautoattack.autopgd_base import APGDAttack
    except ImportError as error:
        raise RunError("APGD needs pyautoattack: pip install 'bdiff[attacks]'") from error

    def halved(unit: Tensor) -> Tensor:
        return logits(2 * unit - 1)

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        attack = APGDAttack(halved, n_iter=steps, norm=NORMS[norm], eps=eps, eot_iter=eot, device=x.device)
        return 2 * attack.perturb((x + 1) / 2, y, best_loss=True) - 1


def cost(images: int, steps: int, eot: int, evaluations: int) -> int:
    """Return how many images `pgd` shows the denoiser: what to tell before a long run.

    `evaluations` is `Purification.evaluations`. With the full gradient each comes with a backward pass, about as dear,
    and with checkpointing a second forward pass; with BPDA it is all there is.
    """
    return images * steps * eot * evaluations
