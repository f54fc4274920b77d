"""Certification: a smoothed classifier behind one-shot denoising (Carlini et al. 2022, arXiv 2206.10550).

A certificate guarantees that the label is constant nearby, not that it is correct: the wrong label of a triggered image
behind a backdoored denoiser can be certified as well.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from bdiff.common.progress import progress
from bdiff.config.rules import above, at_least, one_of, open_fraction, rising
from bdiff.defense.base import Eps, Logits, RadiusShield
from bdiff.defense.shields import cohen
from bdiff.defense.shields.sequential import Bounds, looks
from bdiff.defense.shields.votes import Certificate, Count, Votes
from bdiff.diffusion.schedule import Schedule

log = logging.getLogger(__name__)


class Certification(RadiusShield):
    """Certifies images by votes under Gaussian noise.

    With stop=radii an image whose first guess is wrong gets only the draws of that guess, and others stop as soon as
    none of the requested radii lies within the bounds of the label's probability: the radius is then a lower bound of
    what n draws would certify, and the table is valid only for these radii.

    Args:
        sigma: standard deviation of the noise, for images in [0,1]; radii are in the same units.
        n0: draws of noise that choose the label.
        n: draws of noise that bound its probability; with stop=radii a maximum.
        alpha: maximum probability that a certificate is wrong.
        batch_size: draws per batch, possibly of several images.
        stop: never (Cohen's fixed n) or radii.
        radii: L2 radii at which certified accuracy is reported.
    """

    checks = ("bdiff.defense.check.certificate_problems",)

    def __init__(
        self,
        sigma: Annotated[float, above(0), "standard deviation of the noise, for images in [0,1]"],
        n0: Annotated[int, at_least(1), "draws of noise that choose an image's label"],
        n: Annotated[int, at_least(1), "draws of noise that bound its probability"],
        alpha: Annotated[float, open_fraction, "maximum probability that an image's certificate is wrong"],
        batch_size: Annotated[int, at_least(1), "draws per batch, possibly of several images"],
        stop: Annotated[str, one_of("never", "radii"), "radii stops an image once every radius is decided"],
        radii: Annotated[Sequence[float], rising, "L2 radii at which certified accuracy is reported"],
    ):
        self.sigma, self.n0, self.n, self.alpha, self.batch_size = sigma, n0, n, alpha, batch_size
        self.stop, self.radii, self.draws = stop, list(radii), n0 + n

    @property
    def key(self) -> dict[str, Any]:
        """See `RadiusShield.key`: with stop=never it is the key of versions that had no `stop`."""
        apart = {"batch_size", "draws"} | (set() if self.stop == "radii" else {"stop", "radii"})
        return {name: value for name, value in vars(self).items() if name not in apart}

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if sigma is beyond the schedule; see `Shield.check`."""
        largest = float(schedule.sigmas[-1]) / 2  # images in [-1,1] are twice as wide
        if self.sigma > largest:
            raise ValueError(f"defense.sigma={self.sigma} is beyond the schedule, which ends at {largest:.3g}")

    def behind(self, eps: Eps, schedule: Schedule, classifier: Logits) -> Logits:
        """Return the classifier of noisy images behind the denoiser `eps` (Carlini et al. 2022, algorithm 1).

        Raises ValueError if sigma is beyond the schedule.
        """
        t = schedule.t_of_sigma(2 * self.sigma)  # images in [-1,1] are twice as wide
        scale = schedule.abar[t].sqrt()

        def logits(noisy: Tensor) -> Tensor:
            x_t = scale * noisy
            return classifier(schedule.x0(x_t, eps(x_t, t), t).clamp(-1, 1))

        return logits

    def fixed(self) -> Count:
        """Count the votes of an image as in Cohen et al."""
        guesses = yield self.n0
        votes = yield self.n
        return Certificate(*cohen.certify(guesses, votes, self.alpha, self.sigma), self.n0 + self.n)

    def stopped(self, label: int) -> Count:
        """Count the votes of an image of class `label` until all radii are decided."""
        guess = int((yield self.n0).argmax())
        if guess != label:
            return Certificate(guess, 0.0, self.n0)
        plan = looks(self.n, self.alpha, self.sigma, self.radii)
        bounds = Bounds(self.n, self.alpha, self.sigma, self.radii, len(plan))
        hits = draws = 0
        for look in plan:
            hits += int((yield look.draws - draws)[guess])
            draws = look.draws
            bounds.take(hits, look)
            if bounds.decided:
                break
        return Certificate(*cohen.certificate(guess, bounds.lower, self.sigma), self.n0 + draws)

    def run(
        self,
        logits: Logits,  # of noisy images: `behind` a denoiser, or the classifier itself
        images: Tensor,  # (K,C,H,W) in [-1,1], on the device
        labels: Tensor,  # (K,)
        indices: Tensor,  # (K,) the images' rows in their dataset, each once
        path: Path,  # of the TSV, which is resumed; it must be a function of all that rows depend on
        *,
        seed: int,
        name: str = "certify",
        every: float = 10.0,  # seconds between progress lines
    ) -> list[cohen.Row]:
        """Certify the images that have no row in `path`, appending one by one; return rows in the images' order."""
        assert len(images) == len(labels) == len(indices) == len(indices.unique()), "one index per image"
        known = {row.idx for row in cohen.resume(path, self.stop == "radii")}
        todo = [place for place, index in enumerate(indices.tolist()) if index not in known]
        most = "at most " * (self.stop == "radii")
        log.info("%s: %d of %d images, %s%d noisy copies of each", name, len(todo), len(images), most, self.n0 + self.n)
        counts = [(place, int(indices[place]), self.count(int(labels[place]))) for place in todo]
        rows: dict[int, cohen.Row] = {}
        done = len(images) - len(todo)
        with path.open("a", buffering=1) as file, progress(name, len(images), done, "images", every) as meter:
            votes = Votes(logits, images, self.sigma, self.batch_size, seed)
            for place, (predict, radius, draws), seconds in votes.run(counts):
                index, label = int(indices[place]), int(labels[place])
                took, used = str(timedelta(seconds=seconds)), draws if self.stop == "radii" else None
                rows[place] = cohen.Row(index, label, predict, radius, int(predict == label), took, used)
                while todo and todo[0] in rows:  # images may finish out of order
                    file.write(cohen.text(rows[todo.pop(0)]))
                meter.advance(1, f"radius {radius:.3f}")
        found = {row.idx: row for row in cohen.read(path)}
        return [found[index] for index in indices.tolist()]

    def count(self, label: int) -> Count:
        """Return how the votes of an image of class `label` are counted."""
        return self.stopped(label) if self.stop == "radii" else self.fixed()
