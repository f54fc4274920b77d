"""Votes over noisy copies: many images share a batch, whose noise is drawn while the previous batch is evaluated."""

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bdiff.common.device import Late, to_device
from bdiff.common.seeds import generator
from bdiff.defense.base import Logits
from bdiff.diffusion.noise import pool

#: draws of noise that share a seed: fewer would cost time for seeding, more for draws that are not used
BLOCK = 100
AHEAD = 2  # batches whose labels have not been read


class Certificate(NamedTuple):
    """The result of an image's votes."""

    predict: int  # a label, or cohen.ABSTAIN
    radius: float  # L2, for images in [0,1]; a lower bound
    draws: int


#: yields the number of draws it needs, is sent their counts per label, (classes,), and returns the certificate
Count = Generator[int, np.ndarray, Certificate]


@dataclass
class Ballot:
    """The state of one image's votes."""

    place: int  # among the images
    index: int  # in the dataset, which determines its noise
    count: Count
    asked: int = 0  # draws of the current request that are not in a batch yet
    open: int = 0  # draws whose labels have not been read
    drawn: int = 0  # draws of all requests
    labels: list[np.ndarray] = field(default_factory=list)


class Part(NamedTuple):
    """Draws of one image in a batch."""

    ballot: Ballot
    draws: range


class Batch(NamedTuple):
    """A batch whose noise is being drawn."""

    parts: list[Part]
    noise: Tensor  # (B,C,H,W) on the CPU
    threads: list[Future[None]]


class Votes:
    """Votes for images (K,C,H,W) in [-1,1] on the device, each counted by its `Count`.

    Args:
        logits: of noisy images, (B,C,H,W) -> (B, classes).
        images: all of them.
        sigma: the noise's standard deviation, for images in [0,1].
        batch_size: draws per batch, possibly of several images; no draw depends on it.
        seed: of the noise.
    """

    def __init__(self, logits: Logits, images: Tensor, sigma: float, batch_size: int, seed: int):
        self.logits, self.images, self.sigma, self.batch_size, self.seed = logits, images, sigma, batch_size, seed
        self.waiting: deque[Ballot] = deque()  # without a draw in any batch
        self.active: list[Ballot] = []
        self.asked: deque[tuple[list[Part], Late]] = deque()
        self.classes = 0

    def run(self, counts: Sequence[tuple[int, int, Count]]) -> Iterator[tuple[int, Certificate, float]]:
        """Yield the place and the certificate of each image as it finishes, and the seconds since the previous one.

        `counts` are place, index and count of the images to certify.
        """
        self.waiting.extend(Ballot(*one) for one in counts)
        last, ready = time.monotonic(), self.fill()
        while ready or self.asked:
            if ready:
                self.ask(ready)
                ready = self.fill(full=True)
            while self.asked and (not ready or len(self.asked) >= AHEAD):
                for ballot, certificate in self.read():
                    yield ballot.place, certificate, time.monotonic() - last
                    last = time.monotonic()
                ready = ready or self.fill(full=bool(self.asked))

    def fill(self, full: bool = False) -> Batch | None:
        """Return the next batch; None if there is nothing to draw or, with `full`, not enough for a full batch."""
        room, parts = self.batch_size, []
        available = sum(ballot.asked for ballot in self.active)
        while available < room and self.waiting:
            ballot = self.waiting.popleft()
            ballot.asked = ballot.open = next(ballot.count)
            self.active.append(ballot)
            available += ballot.asked
        if not available or (full and available < room):
            return None
        for ballot in self.active:
            if taken := min(ballot.asked, room):
                parts.append(Part(ballot, range(ballot.drawn, ballot.drawn + taken)))
                ballot.asked, ballot.drawn, room = ballot.asked - taken, ballot.drawn + taken, room - taken
        size = self.batch_size - room
        with torch.inference_mode(False):
            noise = torch.empty((size, *self.images.shape[1:]), pin_memory=self.images.device.type == "cuda")
        slots = noise.split([len(part.draws) for part in parts])
        threads = [pool().submit(self.draw, part, slot) for part, slot in zip(parts, slots, strict=True)]
        return Batch(parts, noise, threads)

    def draw(self, part: Part, slot: Tensor) -> None:
        """Draw the noise of a part of a batch into its slot."""
        slot.copy_(noises(tuple(slot.shape[1:]), part.draws, self.seed, part.ballot.index))

    def ask(self, batch: Batch) -> None:
        """Start the evaluation of a batch, whose labels are read later."""
        places = torch.tensor([part.ballot.place for part in batch.parts])
        places = places.repeat_interleave(torch.tensor([len(part.draws) for part in batch.parts]))
        for thread in batch.threads:
            thread.result()
        with torch.inference_mode():
            noise, device = to_device(batch.noise, self.images.device), self.images.device
            answers = self.logits(self.images[to_device(places, device)] + 2 * self.sigma * noise)
            self.classes = answers.shape[1]
            self.asked.append((batch.parts, Late(answers.argmax(1))))

    def read(self) -> Iterator[tuple[Ballot, Certificate]]:
        """Read the labels of the oldest batch, and yield the images that they finish."""
        parts, late = self.asked.popleft()
        labels, start = late.read().numpy(), 0
        for ballot, draws in parts:
            ballot.labels.append(labels[start : start + len(draws)])
            start += len(draws)
            ballot.open -= len(draws)
            if ballot.open:
                continue
            counts = np.bincount(np.concatenate(ballot.labels), minlength=self.classes)
            ballot.labels.clear()
            try:
                ballot.asked = ballot.open = ballot.count.send(counts)
            except StopIteration as end:
                self.active.remove(ballot)
                yield ballot, end.value


def noises(shape: tuple[int, ...], draws: range, seed: int, index: int) -> Tensor:
    """Return the standard normal noise (len(draws), *shape) of `draws` for image `index`: a function of these only."""
    blocks = range(draws.start // BLOCK, -(-draws.stop // BLOCK))
    drawn = [torch.randn((BLOCK, *shape), generator=generator(seed, "certify", index, block)) for block in blocks]
    return torch.cat(drawn)[draws.start - blocks.start * BLOCK :][: len(draws)]
