"""Common code of metrics: their result, means over images, and batches cut to a number of images."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class MetricResult(NamedTuple):
    """A metric's numbers by name, and the facts needed to compare them; a number may be absent, but is never nan."""

    values: dict[str, float]
    protocol: dict[str, Any]


def means(batches: Iterable[tuple[Tensor, ...]]) -> list[float]:
    """Return the mean over images of several per-image numbers, given as (B,) tensors batch by batch.

    Only sums are kept, so that memory does not grow with the number of batches.
    """
    totals: Tensor | None = None  # on the device, read once at the end
    count = 0
    for numbers in batches:
        sums = torch.stack([one.double().sum() for one in numbers])
        totals = sums if totals is None else totals.add_(sums)
        count += len(numbers[0])
    return [] if totals is None else (totals / count).tolist()


def first(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Yield the first `count` images of batches (B,...), truncating the last one."""
    for batch in batches:
        if count <= 0:
            return
        yield batch[:count]
        count -= len(batch)
