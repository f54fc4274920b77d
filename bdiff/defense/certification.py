"""Certification: a smoothed classifier behind one-shot denoising (Carlini et al. 2022, arXiv 2206.10550).

A certificate says that the label stays the same nearby, not that it is right: what a backdoored denoiser does to a
triggered image can be certified as well.
"""

import logging
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bdiff.defense import cohen
from bdiff.defense.base import Eps, Logits, Shield
from bdiff.progress import progress
from bdiff.schedule import Schedule
from bdiff.seeds import generator

log = logging.getLogger(__name__)

#: draws of noise that share a seed: fewer would spend their time on seeding, more on draws that no batch asked for
BLOCK = 100


class Certification(Shield):
    """Certifies images one by one, each by its votes under Gaussian noise.

    Args:
        sigma: standard deviation of the noise, for images in [0,1]; radii are in the same units.
        n0: draws of noise that choose the label.
        n: draws of noise that bound its probability.
        alpha: probability that a certificate is wrong, at most.
        batch_size: draws per batch.
    """

    def __init__(self, sigma: float, n0: int, n: int, alpha: float, batch_size: int):
        self.sigma, self.n0, self.n, self.alpha, self.batch_size = sigma, n0, n, alpha, batch_size

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if the schedule never gets as noisy as sigma; see `Shield.check`."""
        largest = float(schedule.sigmas[-1]) / 2  # images in [-1,1] are twice as wide
        if self.sigma > largest:
            raise ValueError(f"defense.sigma={self.sigma} is beyond the schedule, which ends at {largest:.3g}")

    def behind(self, eps: Eps, schedule: Schedule, classifier: Logits) -> Logits:
        """Return the classifier of noisy images behind the denoiser `eps` (Carlini et al. 2022, algorithm 1).

        Raises ValueError if the schedule never gets as noisy as sigma.
        """
        t = schedule.t_of_sigma(2 * self.sigma)  # images in [-1,1] are twice as wide
        when = torch.tensor(t)
        scale = schedule.abar[t].sqrt()

        def logits(noisy: Tensor) -> Tensor:
            x_t = scale * noisy
            return classifier(schedule.x0(x_t, eps(x_t, t), when).clamp(-1, 1))

        return logits

    def votes(self, logits: Logits, image: Tensor, draws: range, seed: int, index: int) -> Tensor:
        """Return how many of the noisy copies `draws` of `image` (C,H,W) get each label, (classes,) int64."""
        counts = torch.tensor(0)
        for first in range(draws.start, draws.stop, self.batch_size):
            batch = range(first, min(first + self.batch_size, draws.stop))
            # Drawn on the CPU, so that devices agree; a GPU meanwhile works on the batch before.
            noise = noises(tuple(image.shape), batch, seed, index).to(image.device, non_blocking=True)
            answer = logits(image + 2 * self.sigma * noise)
            counts = counts + one_hot(answer.argmax(1), answer.shape[1]).sum(0)  # bincount would wait for the GPU
        return counts.cpu()

    @torch.inference_mode()
    def certify(self, logits: Logits, image: Tensor, seed: int, index: int) -> tuple[int, float]:
        """Return the label of `image` (C,H,W) in [-1,1] and its radius; `index` tells its noise from other images'."""
        guesses, others = range(self.n0), range(self.n0, self.n0 + self.n)
        counts0, counts = (self.votes(logits, image, draws, seed, index) for draws in (guesses, others))
        return cohen.certify(counts0, counts, self.alpha, self.sigma)

    def run(
        self,
        logits: Logits,  # of noisy images: `behind` a denoiser, or the classifier itself
        images: Tensor,  # (K,C,H,W) in [-1,1], on the device
        labels: Tensor,  # (K,)
        indices: Tensor,  # (K,) the images' rows in their dataset, each once
        path: Path,  # of the TSV, which goes on where it ends; its place must be a function of all that rows depend on
        *,
        seed: int,
        name: str = "certify",
        every: float = 10.0,  # seconds between progress lines
    ) -> list[cohen.Row]:
        """Certify the images that `path` has no row of, each added as it comes; returns rows in the images' order."""
        assert len(images) == len(labels) == len(indices) == len(indices.unique()), "an index for every image"
        rows = {row.idx: row for row in cohen.resume(path)}
        todo = [place for place, index in enumerate(indices.tolist()) if index not in rows]
        log.info("%s: %d of %d images, %d noisy copies of each", name, len(todo), len(images), self.n0 + self.n)
        done = len(images) - len(todo)
        with path.open("a", buffering=1) as file, progress(name, len(images), done, "images", every) as meter:
            for place in todo:
                index, label = int(indices[place]), int(labels[place])
                began = time.monotonic()
                predict, radius = self.certify(logits, images[place], seed, index)
                took = str(timedelta(seconds=time.monotonic() - began))
                rows[index] = cohen.Row(index, label, predict, radius, int(predict == label), took)
                file.write(cohen.text(rows[index]))
                meter.advance(1, f"radius {radius:.3f}")
        found = {row.idx: row for row in cohen.read(path)}
        return [found[index] for index in indices.tolist()]


def noises(shape: tuple[int, ...], draws: range, seed: int, index: int) -> Tensor:
    """Return the standard normal noise (len(draws), *shape) of `draws` for image `index`: a function of these alone."""
    blocks = range(draws.start // BLOCK, -(-draws.stop // BLOCK))
    drawn = [torch.randn((BLOCK, *shape), generator=generator(seed, "certify", index, block)) for block in blocks]
    return torch.cat(drawn)[draws.start - blocks.start * BLOCK :][: len(draws)]
