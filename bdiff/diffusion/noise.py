"""Standard normal noise of images, each a function of its own seed, drawn by threads before it is asked for."""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from bdiff.common.device import to_device

THREADS = min(4, os.cpu_count() or 1)  # that draw; torch does it without the interpreter's lock


@cache
def pool() -> ThreadPoolExecutor:
    """Return the threads that draw, started when they are first needed, and behind those that compute."""
    return ThreadPoolExecutor(THREADS, "noise", initializer=step_back)


def step_back() -> None:
    """Lower this thread's priority: where all cores compute it draws while the network, on a card, or sleep lets it."""
    if sys.platform == "linux":  # elsewhere it would be the whole process's
        os.nice(10)


class Noise(Iterator[Tensor]):
    """Draw after draw of noise for B images, (B, *shape) float32 on `device`, made while the caller does other work.

    Image b's draws are those that `generators[b]`, on the CPU, gives one after the other: the same on every device and
    whatever other images are in the batch. Nothing else may draw from the generators. `ahead` is called when there is
    other work to do: at once after a draw the threads would be in the way of those that compute with it.
    """

    def __init__(self, generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device):
        self.generators, self.shape, self.device = list(generators), tuple(shape), device
        self.coming: tuple[Tensor, list[Future[None]]] | None = None
        self.ahead()

    def __len__(self) -> int:
        return len(self.generators)

    def ahead(self) -> None:
        """Let the threads make the next draw, unless they have begun."""
        self.coming = self.coming or self.begin()

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
        drawn, threads = self.coming or self.begin()
        self.coming = None
        for thread in threads:
            thread.result()
        return to_device(drawn, self.device)
