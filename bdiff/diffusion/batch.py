"""One process's part of a training step: its rows, and random numbers that do not depend on how the batch is split."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One process's part of a step: its pixels (b,C,H,W) uint8 and row numbers (b,), both on the device."""

    pixels: Tensor
    rows: Tensor
    part: slice | Tensor  # the rows of the global batch that these are; (b,) int64 for a piece of a part
    size: int  # rows of the global batch

    def draw(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        """Return this part of `sampler((size, *shape))`, which is drawn for the global batch, so that splits agree."""
        return sampler((self.size, *shape), device=self.pixels.device)[self.part]

    def pieces(self, most: int | None) -> list["Batch"]:
        """Return it in pieces of at most `most` rows, as equal as can be; None for one piece."""
        count = -(-len(self.rows) // most) if most else 1
        if count == 1:
            return [self]
        place = torch.arange(self.size, device=self.rows.device)[self.part]
        pixels, rows, places = (one.tensor_split(count) for one in (self.pixels, self.rows, place))
        return [Batch(*part, self.size) for part in zip(pixels, rows, places, strict=True)]


#: the loss of a network on a batch
Loss = Callable[[nn.Module, Batch], Tensor]


def mirrored(x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return images (b,C,H,W), half of them mirrored left to right at random, and which these are, (b,) bool."""
    mirror = batch.draw(torch.rand, 1, 1, 1).view(-1) < 0.5
    return torch.where(mirror.view(-1, 1, 1, 1), x.flip(-1), x), mirror
