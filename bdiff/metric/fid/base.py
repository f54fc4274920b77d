"""The Fréchet distance over a feature extractor: streamed, float64 moments, no image files."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bdiff.common.device import to_device
from bdiff.metric.fid.moments import Moments


class Features(nn.Module):
    """Maps uint8 images (B,C,H,W) to (B, num_features) activations."""

    #: suffix of the names of numbers over these features: empty only if they are comparable with published ones
    suffix: str
    num_features: int

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the facts needed to reproduce the features: extractor, hash of the weights, resize."""

    @abstractmethod
    def logits(self, activations: Tensor) -> Tensor:
        """Return the (B, classes) logits of the extractor's last layer for its activations."""


class Remembering(nn.Module):
    """Passes images to `features` and keeps the activations of the first `most` of them, on the CPU."""

    def __init__(self, features: Features, most: int):
        super().__init__()
        self.features, self.num_features, self.most = features, features.num_features, most
        self.parts: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the (B, num_features) activations of uint8 images."""
        activations = self.features(pixels)
        if (room := self.most - sum(map(len, self.parts))) > 0:
            self.parts.append(activations[:room].cpu())
        return activations

    @property
    def kept(self) -> Tensor:
        """The kept activations, (n, num_features)."""
        return torch.cat(self.parts)


class Frechet:
    """A Fréchet distance between reference images and samples, fed batch by batch on `device`."""

    def __init__(self, features: Features | Remembering, device: torch.device):
        from torchmetrics.image.fid import FrechetInceptionDistance  # here, since it takes long to import

        self.device = device
        # One process computes the distance, so its sums must not be synchronized with others.
        self.statistic = FrechetInceptionDistance(feature=features.eval(), normalize=False, sync_on_compute=False)
        self.statistic.to(device)

    @torch.inference_mode()
    def feed(self, batches: Iterable[Tensor], real: bool) -> None:
        """Add uint8 batches (B,C,H,W), as reference images if `real`, else as samples."""
        for pixels in batches:
            self.statistic.update(to_device(pixels, self.device), real=real)

    def gaussian(self, side: str) -> tuple[Tensor, Tensor]:
        """Return mu (D,) and the unbiased sigma (D,D) of the side `real` or `fake`, float64, of at least two images."""
        total, square, count = (
            getattr(self.statistic, f"{side}_features_{what}") for what in ("sum", "cov_sum", "num_samples")
        )
        mu = total / count
        return mu, (square - count * mu.outer(mu)) / (count - 1)

    @property
    def reference(self) -> Moments:
        """The moments of the reference images, of which there must be at least two."""
        mu, sigma = self.gaussian("real")
        return Moments(mu.cpu().numpy(), sigma.cpu().numpy(), int(self.statistic.real_features_num_samples))

    @reference.setter
    def reference(self, moments: Moments) -> None:
        # torchmetrics keeps sums and a count; the distance depends only on mu and sigma, so any count works.
        count = moments.count or 2
        mu, sigma = (torch.from_numpy(array).to(self.device) for array in (moments.mu, moments.sigma))
        self.statistic.real_features_sum = count * mu
        self.statistic.real_features_cov_sum = (count - 1) * sigma + count * mu.outer(mu)
        self.statistic.real_features_num_samples = torch.tensor(count, device=self.device)

    def value(self) -> float:
        """Return the distance; needs at least two images on both sides."""
        return distance(*self.gaussian("real"), *self.gaussian("fake")).item()


def distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> Tensor:
    """Return |mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2)) (Heusel et al. 2017, eq. 6), a scalar.

    Means (D,) and covariances (D,D), float64. The trace of the root equals that of (h' sigma2 h)^(1/2) with
    h h' = sigma1: a symmetric matrix, whose eigenvalues are real and cheaper than the product's.
    """
    half = root(sigma1)
    cross = torch.linalg.eigvalsh(half.T @ sigma2 @ half)
    return (mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * positive(cross).sqrt().sum()


def root(sigma: Tensor) -> Tensor:
    """Return h with h h' = sigma, a covariance (D,D): by Cholesky, or by eigenvalues if sigma is singular."""
    half, failed = torch.linalg.cholesky_ex(sigma)
    if not failed:
        return half
    values, vectors = torch.linalg.eigh(sigma)
    return vectors * positive(values).sqrt()


def positive(values: Tensor) -> Tensor:
    """Return eigenvalues with those below the rounding error set to zero, since the roots of many would add up."""
    return torch.where(values > 4 * torch.finfo(values.dtype).eps * values.max(), values, 0.0)
