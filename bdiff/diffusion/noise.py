"""Standard normal noise of images, each a function of its own seed, prefetched by threads."""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from bdiff.common.device import to_device

THREADS = min(4, os.cpu_count() or 1)  # that draw; torch releases the interpreter's lock for it


@cache
def pool() -> ThreadPoolExecutor:
    """Return the drawing threads, started on first use with a lower priority than the computing ones."""
    return ThreadPoolExecutor(THREADS, "noise", initializer=step_back)


def step_back() -> None:
    """Lower this thread's priority, so that it draws only when the computing threads leave a core idle."""
    if sys.platform == "linux":  # elsewhere it would apply to the whole process
        os.nice(10)


class Noise(Iterator[Tensor]):
    """An iterator over draws of noise for B images, (B, *shape) float32 on `device`, prefetched in the background.

    Image b's draws come from `generators[b]`, on the CPU, one after the other: they do not depend on the device or on
    other images in the batch. Nothing else may draw from the generators. Call `ahead` when the caller has other work:
    right after a draw, the threads would compete with those that compute with it.
    """

    def __init__(self, generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device):
        self.generators, self.shape, self.device = list(generators), tuple(shape), device
        self.coming: tuple[Tensor, list[Future[None]]] | None = None
        self.ahead()

    def __len__(self) -> int:
        return len(self.generators)

    def ahead(self) -> None:
        """Start the next draw in the background, unless it has started."""
        self.coming = self.coming or self.begin()

    def begin(self) -> tuple[Tensor, list[Future[None]]]:
        """Start a draw into new memory, pinned if a GPU reads it; torch reuses it once it has been read."""
        with torch.inference_mode(False):  # inference mode is per thread
            drawn = torch.empty((len(self), *self.shape), pin_memory=self.device.type == "cuda")
        parts = [range(first, len(self), THREADS) for first in range(min(THREADS, len(self)))]
        return drawn, [pool().submit(self.fill, drawn, part) for part in parts]

    def fill(self, drawn: Tensor, images: range) -> None:
        """Draw the noise of `images`."""
        for image in images:
            torch.randn(self.shape, generator=self.generators[image], out=drawn[image])

    def __next__(self) -> Tensor:
        drawn, threads = self.coming or self.begin()
        self.coming = None
        for thread in threads:
            thread.result()
        return to_device(drawn, self.device)
