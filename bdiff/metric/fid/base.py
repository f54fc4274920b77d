"""The Fréchet distance over a feature extractor: streamed, float64 moments, no image files."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from bdiff.device import to_device
from bdiff.metric.fid.moments import Moments


class Features(nn.Module):
    """Maps uint8 images (B,C,H,W) to (B, num_features) activations."""

    #: ends the names of numbers taken over these features: empty only where they compare with published ones
    suffix: str
    num_features: int

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what has to be known to get the same features again: extractor, weights' hash, resize."""

    @abstractmethod
    def logits(self, activations: Tensor) -> Tensor:
        """Return the (B, classes) logits that the extractor's last layer makes of its activations."""


class Remembering(nn.Module):
    """Hands images to `features` and keeps the activations of the first `most` of them, on the CPU."""

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
        """What was kept, (n, num_features)."""
        return torch.cat(self.parts)


class Frechet:
    """A Fréchet distance between reference images and samples, fed batch by batch on `device`."""

    def __init__(self, features: Features | Remembering, device: torch.device):
        self.device = device
        # One process measures, so its sums must not wait for those of others.
        self.statistic = FrechetInceptionDistance(feature=features.eval(), normalize=False, sync_on_compute=False)
        self.statistic.to(device)

    @torch.inference_mode()
    def feed(self, batches: Iterable[Tensor], real: bool) -> None:
        """Take in uint8 batches (B,C,H,W), as reference images if `real`, else as samples."""
        for pixels in batches:
            self.statistic.update(to_device(pixels, self.device), real=real)

    @property
    def reference(self) -> Moments:
        """What is kept of the reference images: the same size for any number of them, which must be two at least."""
        count = int(self.statistic.real_features_num_samples)
        mu = self.statistic.real_features_sum / count
        sigma = (self.statistic.real_features_cov_sum - count * mu.outer(mu)) / (count - 1)
        return Moments(mu.cpu().numpy(), sigma.cpu().numpy(), count)

    @reference.setter
    def reference(self, moments: Moments) -> None:
        # torchmetrics keeps sums and a count; the distance depends on mu and sigma alone, so any count serves.
        count = moments.count or 2
        mu, sigma = (torch.from_numpy(array).to(self.device) for array in (moments.mu, moments.sigma))
        self.statistic.real_features_sum = count * mu
        self.statistic.real_features_cov_sum = (count - 1) * sigma + count * mu.outer(mu)
        self.statistic.real_features_num_samples = torch.tensor(count, device=self.device)

    def value(self) -> float:
        """Return the distance; needs at least two images on both sides."""
        return self.statistic.compute().item()
