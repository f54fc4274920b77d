"""What measures share: their answer, means over images, and batches cut to a number of images."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor


class Measured(NamedTuple):
    """The numbers of a measure by name, and what has to be known to compare them; a number may be absent, never nan."""

    values: dict[str, float]
    protocol: dict[str, Any]


def means(batches: Iterable[tuple[Tensor, ...]]) -> list[float]:
    """Return the mean over images of each of some per-image numbers, which come as (B,) tensors batch by batch.

    Only sums are kept: whatever stays between batches, even if small, makes the heap grow with their number.
    """
    totals: list[float] = []
    count = 0
    for numbers in batches:
        sums = [one.double().sum().item() for one in numbers]
        totals = [total + one for total, one in zip(totals, sums, strict=True)] if totals else sums
        count += len(numbers[0])
    return [total / count for total in totals]


def first(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Yield the first `count` images of batches (B,...), cutting the last one."""
    for batch in batches:
        if count <= 0:
            return
        yield batch[:count]
        count -= len(batch)
