"""Standard normal noise of images, each a function of its own seed, drawn by threads before it is asked for."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from bdiff.device import to_device

THREADS = min(4, os.cpu_count() or 1)  # that draw; torch does it without the interpreter's lock


@cache
def pool() -> ThreadPoolExecutor:
    """Return the threads that draw, started when they are first needed."""
    return ThreadPoolExecutor(THREADS, "noise")


class Noise(Iterator[Tensor]):
    """Draw after draw of noise for B images, (B, *shape) float32 on `device`; the next one is always in the making.

    Image b's draws are those that `generators[b]`, on the CPU, gives one after the other: the same on every device and
    whatever other images are in the batch. Nothing else may draw from the generators.
    """

    def __init__(self, generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device):
        self.generators, self.shape, self.device = list(generators), tuple(shape), device
        self.ahead = self.begin()

    def __len__(self) -> int:
        return len(self.generators)

    def begin(self) -> tuple[Tensor, list[Future[None]]]:
        """Let the threads draw into new memory: pinned if a GPU reads it, and torch then reuses it once it is read."""
        with torch.inference_mode(False):  # which holds for one thread alone
            drawn = torch.empty((len(self), *self.shape), pin_memory=self.device.type == "cuda")
        parts = [range(first, len(self), THREADS) for first in range(min(THREADS, len(self)))]
        return drawn, [pool().submit(self.fill, drawn, part) for part in parts]

    def fill(self, drawn: Tensor, images: range) -> None:
        """Draw the noise of `images`."""
        for image in images:
            torch.randn(self.shape, generator=self.generators[image], out=drawn[image])

    def __next__(self) -> Tensor:
        drawn, threads = self.ahead
        for thread in threads:
            thread.result()
        self.ahead = self.begin()
        return to_device(drawn, self.device)
