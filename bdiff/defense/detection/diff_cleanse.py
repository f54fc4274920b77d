"""Diff-Cleanse (Hao et al. 2024, arXiv 2407.21316; checked against the authors' code): a trigger by its samples alone.

The model is a black box: x_T = eps + tau is sampled, and the gradient of a loss on the images is taken for that of x_T,
as if the sampler were the identity. Not known is what the paper calls the nearest candidate image where several differ:
the authors' code takes the first, here it is the nearest of all that agree with another. Ours are the start, plain
noise; the choice of the lowest loss as long as no images agree; and the second sampler: an ODE sampler, as the authors
have it, does not open a backdoor of ancestral sampling.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bdiff.common.seeds import generator
from bdiff.config.rules import above, at_least, auto_or_number, fraction, one_of, span
from bdiff.defense.base import Detection, Inversion, Suspect
from bdiff.defense.check import LAWS
from bdiff.defense.detection.curve import Curve
from bdiff.defense.detection.probe import sampled
from bdiff.defense.settings import ComparedSettings
from bdiff.diffusion.mode import Work
from bdiff.diffusion.sampling import Sampler, denoise
from bdiff.diffusion.view import View

BLANK = 0.01  # mean value in [0,1] up to which an image counts as black, and likewise as white
MARGIN = 0.05  # values in [0,1] nearer than this to 0 or 1 are penalized
SLACK = 0.1  # entropy that others may differ by from the images that agree
WEIGHT = 10.0  # of the entropy; twice that as long as no images agree


def cosines(images: Tensor) -> Tensor:
    """Return the cosine (B,B) of every two images (B,C,H,W), and -1 of an image with itself."""
    flat = normalize(images.flatten(1), dim=1)
    return (flat @ flat.T).masked_fill(torch.eye(len(flat), dtype=torch.bool, device=flat.device), -1.0)


def agreeing(images: Tensor, least: float) -> Tensor:
    """Return which images (B,C,H,W) in [0,1] have a cosine above `least` with another, (B,) bool; blank ones never."""
    brightness = images.flatten(1).mean(1)
    shown = (brightness > BLANK) & (brightness < 1 - BLANK)
    return ((cosines(images) > least) & shown & shown[:, None]).any(1)


def entropy(images: Tensor) -> Tensor:
    """Return the entropy (B,), in nats, of a softmax over the values of images (B,C,H,W) in [0,1] on a scale of 255."""
    levels = 255 * images.flatten(1)
    log = (levels.round().detach() - levels.detach() + levels).log_softmax(1)  # gradients as if it were not rounded
    return -(log.exp() * log).sum(1)


def disagreement(images: Tensor, least: float, bounds: Sequence[float]) -> tuple[Tensor, float]:
    """Return the loss of images (B,C,H,W) in [0,1], a scalar, and the fraction of them that agree with another.

    Of the others: 1 - cosine to the nearest image that agrees (without any, of all pairs), entropy outside of `bounds`
    or of that of those that agree, and values near black or white. 0 if all agree.
    """
    agree = agreeing(images, least)
    count = int(agree.sum())
    if count == len(images):
        return images.new_zeros(()), 1.0
    others, known = images[~agree], entropy(images)
    low, high = bounds
    if count:
        low, high = known[agree].min().item() - SLACK, known[agree].max().item() + SLACK
        apart = 1 - cosines(images)[~agree][:, agree].max(1).values.sum() / len(others)
        similarity = len(images) * apart
    else:
        similarity = (1 - cosines(images)).triu(1).sum()
    outside = (known[~agree] - high).relu() + (low - known[~agree]).relu()
    extreme = (others - (1 - MARGIN)).relu().sum() + (MARGIN - others).relu().sum()
    return similarity + WEIGHT * (1 if count else 2) * outside.sum() + extreme, count / len(images)


@dataclass
class DiffCleanse(Detection):
    """Finds the tau whose samples agree with each other, by descent through the sampler as if it were the identity.

    The score is the fraction of samples, from other noise than the descent's, that agree. Of several families of
    samplers the trigger with the most images that agree is kept.
    """

    checks = (
        "bdiff.defense.check.fraction_problems",
        "bdiff.defense.check.sample_problems",
        "bdiff.defense.check.solver_problems",
    )
    settings = ComparedSettings
    compares = True

    family: Annotated[str, one_of(*LAWS, "each"), "of samplers that may open a backdoor: UniPC for ode; each in turn"]
    sampler_steps: Annotated[int, at_least(2), "steps of the sampler"]
    steps: Annotated[int, at_least(1), "gradient steps with each sampler, at most"]
    batch: Annotated[int, at_least(2), "images of noise"]
    lr: Annotated[float, above(0), "step size of Adam"]
    agreement: Annotated[float, fraction, "cosine of images in [0,1] from which on they agree"]
    entropy: Annotated[Sequence[float], span, "least and largest entropy of an image as long as none agree"]
    samples: Annotated[int, at_least(2), "images drawn from the trigger that are scored"]
    threshold: Annotated[float | None, auto_or_number, "minimum score of a flagged model; null: none is flagged"]

    @property
    def families(self) -> Sequence[str]:
        """The families of samplers that are tried."""
        return LAWS if self.family == "each" else [self.family]

    @property
    def total(self) -> int:
        """See `Detection.total`."""
        return len(self.families) * self.steps

    @property
    def work(self) -> Work:
        """See `Detection.work`: it takes no gradients of the network."""
        return Work(self.total * self.sampler_steps * self.batch, self.batch)

    def invert(self, suspect: Suspect, seed: int, watch: Callable[[str], None] = lambda line: None) -> Inversion:
        """Return the trigger with the most images that agree; see `Detection.invert`."""
        found = [self.descend(suspect, family, seed, watch) for family in self.families]
        return max(found, key=lambda one: one.evidence["agreement"])

    def descend(self, suspect: Suspect, family: str, seed: int, watch: Callable[[str], None]) -> Inversion:
        """Return the trigger with the most images that agree, then the lowest loss; every step has the same noise."""
        draws = generator(seed, "diff_cleanse")
        eps = suspect.noise(self.batch, draws)
        tau = suspect.noise(1, draws)[0]
        optimizer, curve = torch.optim.Adam([tau], lr=self.lr), Curve("diff_cleanse", self.lr, watch)
        best, most = tau.clone(), (-1.0, 0.0)
        for _ in range(self.steps):
            drawn = self.draw(suspect, eps + tau, family, generator(seed, "diff_cleanse sampler"))
            images = (drawn / 2 + 0.5).clamp(0, 1).requires_grad_()
            loss, share = disagreement(images, self.agreement, self.entropy)
            curve.add(loss)
            if (rank := (share, -loss.item())) > most:
                best, most = tau.clone(), rank
            if share == 1:
                break
            loss.backward()
            assert images.grad is not None
            tau.grad = images.grad.mean(0)
            optimizer.step()
        return Inversion(best.cpu(), curve.values(), {"agreement": most[0]}, family=family)

    def draw(self, suspect: Suspect, x: Tensor, family: str, draws: torch.Generator) -> Tensor:
        """Return images (B,C,H,W) from x_T by UniPC or a few ancestral steps."""
        if family == "ancestral":
            return sampled(suspect, x, draws, self.sampler_steps)
        from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

        scheduler = UniPCMultistepScheduler(**suspect.schedule.config, timestep_spacing="linspace")
        images = denoise(View(suspect), Sampler(scheduler, self.sampler_steps), x, lambda: torch.empty(0))
        return images.clone()  # outside of inference mode

    def look(self, inversion: Inversion, samples: Tensor) -> dict[str, float]:
        """Return the score; see `Detection.look`."""
        return {"score": self.share(samples)}

    def compare(self, inversion: Inversion, samples: Tensor, clean: Tensor) -> dict[str, float]:
        """Return how much larger the fraction is than that of clean samples; see `Detection.compare`."""
        return {"relative_score": self.share(samples) - self.share(clean)}

    def share(self, samples: Tensor) -> float:
        """Return the fraction of samples (B,C,H,W) in [-1,1] that agree."""
        return agreeing(samples[: self.samples] / 2 + 0.5, self.agreement).float().mean().item()
