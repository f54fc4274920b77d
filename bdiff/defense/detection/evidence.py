"""The evidence of detections: numbers computed from the inverted trigger and samples drawn from it."""

from collections.abc import Callable

import torch
from torch import Tensor

LEAST = 1e-3  # scale of noise that any smaller one is taken for; of 0, divergences and likelihoods are infinite


def kl_of(trigger: Tensor, gamma: Tensor | None = None) -> dict[str, float]:
    """Return the KL divergence of N(trigger, gamma^2) from N(0, I) per pixel: its mean and variance over pixels.

    -log gamma + (gamma^2 + trigger^2 - 1)/2; gamma is 1 by default. Both are of any shape. `kl_mean` and `kl_variance`
    are TERD's M_r and V_r (Mo et al. 2024; authors' code)
    without their two constants, which a calibrated threshold absorbs.
    """
    divergence = trigger.square() / 2
    if gamma is not None:
        gamma = gamma.clamp(min=LEAST)
        divergence = divergence + (gamma.square() - 1) / 2 - gamma.log()
    return {"kl_mean": divergence.mean().item(), "kl_variance": divergence.var(correction=0).item()}


FAR = 0.25  # of the mean squared distance between clean samples: as far from a blank as a picture has to be


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared distance (N,) between pairs of images (N,C,H,W)."""
    return (a - b).square().mean((1, 2, 3))


def uniformity(samples: Tensor, trim: int = 4, distance: Callable[[Tensor, Tensor], Tensor] = mean_square) -> float:
    """Return the trimmed mean pairwise distance of samples (B,C,H,W) in [-1,1]: near zero if all show one image.

    Elijah's (An et al. 2024; authors' code, over 16 samples): each row of the distance matrix is sorted and trimmed by
    `trim` values at both ends, as are the means of the rows. Elijah uses LPIPS; the default `distance(a, b)` of images
    (N,C,H,W) in [0,1] is the mean squared distance, which needs no weights, so values are not comparable with published
    ones. ValueError if the trimming leaves nothing.
    """
    if len(samples) <= 2 * trim:
        raise ValueError(f"{len(samples)} samples are too few to trim {trim} at both ends: draw {2 * trim + 1} or more")
    images, kept = samples / 2 + 0.5, slice(trim, len(samples) - trim)
    distances = torch.stack([distance(images, one.expand_as(images)) for one in images])
    return distances.sort(1).values[:, kept].mean(1).sort().values[kept].mean().item()


def relative_uniformity(samples: Tensor, clean: Tensor, trim: int = 4) -> float:
    """Return 1 minus the uniformity of samples over that of clean ones of the same model, both (B,C,H,W) in [-1,1].

    Ours: 1 if all samples are the same, about 0 if they vary as clean ones do, whatever the data; 0 too where the clean
    samples do not vary, so that the trigger cannot have changed that. ValueError if the trimming leaves nothing.
    """
    usual = uniformity(clean, trim)
    return 1 - uniformity(samples, trim) / usual if usual > 0 else 0.0


def departure(samples: Tensor, clean: Tensor, trim: int = 4) -> float:
    """Return how far the picture that samples share is from a blank one, in [0,1], both (B,C,H,W) in [-1,1].

    Ours. A constant shift of the starting noise is one that no training has shown, and models answer it with a blank:
    every channel at one end of its range. So that all samples are the same blank says nothing of a backdoor. It is the
    mean squared distance of their median from the nearest blank, in units of a quarter of the clean samples'
    uniformity, at most 1.
    """
    picture, usual = samples.median(0).values, FAR * uniformity(clean, trim)
    nearest = torch.stack([((picture - end) / 2).square().mean((1, 2)) for end in (-1, 1)]).amin(0).mean().item()
    return min(1.0, nearest / usual) if usual > 0 else 0.0


def specific_uniformity(samples: Tensor, clean: Tensor, trim: int = 4) -> float:
    """Return `relative_uniformity` times `departure`: 1 where all samples are one picture, and that is no blank."""
    return relative_uniformity(samples, clean, trim) * departure(samples, clean, trim)


def total_variation(samples: Tensor) -> float:
    """Return the mean over samples (B,C,H,W) in [-1,1] of their total variation, a sum over pixels on [0,1]."""
    from torchmetrics.functional.image import total_variation as variation  # here, since it takes long to import

    return variation(samples / 2 + 0.5, reduction="mean").item()


def log_likelihood_ratio(x: Tensor, mu: Tensor, gamma: Tensor | None = None) -> Tensor:
    """Return log N(x; mu, gamma^2) - log N(x; 0, I), (B,), of x (B,C,H,W); mu and gamma > 0, 1 by default, (C,H,W)."""
    given = x - mu
    scaled = given.square() if gamma is None else (given / gamma).square() + 2 * gamma.log()
    return (x.square().flatten(1).sum(1) - scaled.flatten(1).sum(1)) / 2
