"""Certification, noisy draws a second: bdiff's, the bare networks, and Cohen's loop over one image at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from bdiff.classifier.resnet18 import ResNet18
from bdiff.defense.base import Logits
from bdiff.defense.shields.votes import Certificate, Count, Votes
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.engine import Engine
from bdiff.pipeline.certify import logits_of
from bench.subject import Subject
from bench.timing import Figures, rates


def certification(on: Subject, images: int, draws: int, batch: int) -> Figures:
    """Count `draws` votes of each of `images`, `batch` at a time, behind one-shot denoising."""
    fast, eager = behind(on, on.precision, batch), behind(on, on.precision)
    fp32 = behind(on, "fp32")
    noise = on.noise(batch)
    contenders = {
        "bdiff": counted(on, fast, images, draws, batch),
        "bdiff_eager": counted(on, eager, images, draws, batch),
        "bare": on.rate(lambda: eager(noise), batch, 3),
        "cohen": cohens(on, fp32, draws, batch),
    }
    over = [("bdiff", "bare"), ("bdiff", "cohen"), ("bdiff_eager", "bare"), ("bdiff_eager", "cohen")]
    config = on.config | {"classifier": "ResNet18", "images": images, "draws": draws, "batch": batch}
    config |= {"compile time": "left out"}
    return Figures(config, rates(contenders, over))


def behind(on: Subject, precision: str, batch: int | None = None) -> Logits:
    """Return the classifier behind one-shot denoising; both compiled for batches of `batch`, if one is given."""
    torch.manual_seed(0)
    classifier = Engine(ResNet18(on.shape[0], 10).to(on.device).eval(), logits_of, precision)
    suspect, t = Suspect(on.net(), on.schedule, on.shape, on.device, precision=precision), len(on.schedule) // 10
    for engine in (classifier, suspect.engine) if batch else ():
        engine.compile(batch)

    @torch.inference_mode()
    def logits(x: Tensor) -> Tensor:
        return classifier(on.schedule.x0(x, suspect.eps(x, t), t).clamp(-1, 1))

    return logits


def counted(on: Subject, logits: Logits, images: int, draws: int, batch: int) -> Callable[[], float]:
    """Return the rate of bdiff's loop, which fills its batches with draws of several images."""

    def count() -> Count:
        votes = yield draws
        return Certificate(int(votes.argmax()), 0.0, draws)

    x = torch.zeros((images, *on.shape), device=on.device)
    votes = Votes(logits, x, 0.25, batch, 0)
    return on.rate(lambda: list(votes.run([(k, k, count()) for k in range(images)])), images * draws)


def cohens(on: Subject, logits: Logits, draws: int, batch: int) -> Callable[[], float]:
    """Return the rate of the published loop in fp32: an image's draws in batches, each read before the next."""
    image = torch.zeros(on.shape, device=on.device)

    @torch.inference_mode()
    def one() -> None:
        left = draws
        while left:
            here = min(left, batch)
            left -= here
            noise = torch.randn((here, *on.shape), device=on.device)
            logits(image.repeat(here, 1, 1, 1) + 0.5 * noise).argmax(1).cpu().numpy()

    return on.rate(one, draws)
