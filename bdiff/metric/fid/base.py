"""The Fréchet distance over a feature extractor: streamed, float64 moments, no image files."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

#: the three sums that torchmetrics keeps of the reference images
REFERENCE = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


class Features(nn.Module):
    """Maps uint8 images (B,C,H,W) to (B, num_features) activations."""

    #: the metric's name: `fid` only where the number compares with published ones
    metric: str
    num_features: int

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Return what has to be known to get the same features again: extractor, weights' hash, resize."""


class Frechet:
    """A Fréchet distance between reference images and samples, fed batch by batch on `device`."""

    def __init__(self, features: Features, device: torch.device):
        self.device = device
        # One process measures, so its sums must not wait for those of others.
        self.statistic = FrechetInceptionDistance(feature=features.eval(), normalize=False, sync_on_compute=False)
        self.statistic.to(device)

    @torch.inference_mode()
    def feed(self, batches: Iterable[Tensor], real: bool) -> None:
        """Take in uint8 batches (B,C,H,W), as reference images if `real`, else as samples."""
        for pixels in batches:
            self.statistic.update(pixels.to(self.device), real=real)

    @property
    def reference(self) -> dict[str, Tensor]:
        """What is kept of the reference images: the same size for any number of them."""
        return {name: getattr(self.statistic, name).cpu() for name in REFERENCE}

    @reference.setter
    def reference(self, sums: dict[str, Tensor]) -> None:
        for name in REFERENCE:
            setattr(self.statistic, name, sums[name].to(self.device))

    def value(self) -> float:
        """Return the distance; needs at least two images on both sides."""
        return self.statistic.compute().item()
