"""The interface of classifiers, and their accuracy."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from bdiff.common.device import to_device
from bdiff.data.base import Images, to_float


class Classifier(nn.Module):
    """An image classifier for images (B,C,H,W) in [-1,1]; `head` maps its features to logits."""

    num_features: int
    head: nn.Module

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return the (B, num_features) activations before the last layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, classes) logits."""
        return self.head(self.features(x))


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, rows: Tensor, device: torch.device, batch: int = 512) -> float:
    """Return the fraction of `rows` (n,) that `model` labels correctly, in [0,1]."""
    hits, labels = torch.zeros((), dtype=torch.long, device=device), to_device(images.labels[rows], device)
    for part, expected in zip(rows.split(batch), labels.split(batch), strict=True):
        logits = model(to_float(to_device(images.take(part), device)))
        hits += (logits.argmax(1) == expected).sum()
    return int(hits) / len(rows)
