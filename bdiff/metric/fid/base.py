"""The Fréchet distance over a feature extractor: streamed, float64 moments, no image files."""

from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from bdiff.common.device import to_device
from bdiff.common.peers import ALONE, Peers
from bdiff.diffusion.engine import Engine, steady
from bdiff.metric.fid.moments import Moments


class Features(nn.Module):
    """Maps uint8 images (B,C,H,W) to (B, num_features) activations."""

    #: suffix of the names of numbers over these features: empty only if they are comparable with published ones
    suffix: str
    num_features: int

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the facts needed to reproduce the features: extractor, hash of the weights, resize."""

    @cached_property
    def engine(self) -> Engine:
        """What evaluates it, in fp32, eager at first."""
        return Engine(self, activations_of, "fp32")

    @abstractmethod
    def logits(self, activations: Tensor) -> Tensor:
        """Return the (B, classes) logits of the extractor's last layer for its activations."""


def activations_of(features: nn.Module, pixels: Tensor) -> Tensor:
    """Return the activations (B,D) of uint8 images (B,C,H,W)."""
    activations: Tensor = features(pixels)
    return activations


class Sums:
    """Float64 sums over activations (n,D) on a device, from which their mean and covariance follow."""

    def __init__(self, dimensions: int, device: torch.device):
        self.total = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self.square = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, activations: Tensor) -> None:
        """Count activations (B,D) in."""
        x = activations.double()
        self.total += x.sum(0)
        self.square += x.T.mm(x)
        self.count += len(x)

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Return mu (D,) and the unbiased sigma (D,D), float64, of at least two images."""
        mu = self.total / self.count
        return mu, (self.square - self.count * mu.outer(mu)) / (self.count - 1)


class Frechet:
    """A Fréchet distance between reference images and samples, fed batch by batch on `device`.

    `keep`: of how many samples it keeps the activations, on the CPU, for measures that need them one by one.
    """

    def __init__(self, features: Features, device: torch.device, keep: int = 0):
        self.features, self.device, self.room = features.eval(), device, keep
        self.real, self.fake = (Sums(features.num_features, device) for _ in range(2))
        self.kept: list[Tensor] = []

    @torch.inference_mode()
    def feed(self, batches: Iterable[Tensor], real: bool, peers: Peers = ALONE) -> None:
        """Add uint8 batches (B,C,H,W), as reference images if `real`, else as samples.

        Each of several processes gives those that are its own (`Peers.mine`), and all add all activations in their
        order: sums are then the same to the last bit, however many processes there are.
        """
        engine, here = self.features.engine, (to_device(pixels, self.device) for pixels in batches)
        for activations in peers.stream(steady(partial(engine, pixels)) for pixels in here):
            (self.real if real else self.fake).add(to_device(activations, self.device))
            if not real and self.room:
                self.kept.append(activations[: self.room].cpu())
                self.room -= len(self.kept[-1])

    @property
    def activations(self) -> Tensor:
        """The activations (n,D) of the first samples."""
        return torch.cat(self.kept)

    @property
    def reference(self) -> Moments:
        """The moments of the reference images, of which there must be at least two."""
        mu, sigma = self.real.gaussian()
        return Moments(mu.cpu().numpy(), sigma.cpu().numpy(), self.real.count)

    @reference.setter
    def reference(self, moments: Moments) -> None:
        # There are sums and a count here; the distance depends only on mu and sigma, so any count works.
        count = moments.count or 2
        mu, sigma = (torch.from_numpy(array).to(self.device) for array in (moments.mu, moments.sigma))
        self.real.total, self.real.square = count * mu, (count - 1) * sigma + count * mu.outer(mu)
        self.real.count = count

    def value(self) -> float:
        """Return the distance; needs at least two images on both sides."""
        return distance(*self.real.gaussian(), *self.fake.gaussian()).item()


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
