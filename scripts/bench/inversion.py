"""Trigger inversion, gradient steps a second: bdiff's, the bare network's, and one in fp32 with gradients of weights.

The last is what one gets from a network as it is loaded: nothing frozen, nothing cast.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from bdiff.common.device import autocast, synchronize
from bdiff.config.compose import jobs
from bdiff.diffusion.denoiser import Suspect
from bdiff.pipeline.suspect import method
from bench.subject import Subject
from bench.timing import Figures, rates

#: of each detection: what leaves nothing but descent
ONLY_DESCENT = {"elijah": [], "purediffusion": ["defense.probes=0", "defense.restarts=1"]}


def inversion(on: Subject, steps: int = 4) -> Figures:
    """Take `steps` gradient steps of Elijah and PureDiffusion, each way."""
    metrics: dict[str, float] = {}
    for name, words in ONLY_DESCENT.items():
        small = ["defense.batch=2"] if on.tiny else []
        (config,) = jobs([f"defense={name}", *words, *small, f"defense.steps={steps + 1}"], False)
        batch = config.defense.batch
        published = Suspect(on.net(), on.schedule, on.shape, on.device)
        published.requires_grad_(True)
        contenders = {
            f"{name}_bare": bare(on, rows(on, config)),
            f"{name}": descent(on, config, on.suspect(batch, gradients=True)),
            f"{name}_eager": descent(on, config, on.suspect()),
            f"{name}_published": descent(on, config, published),
        }
        beside = (f"{name}_bare", f"{name}_published")
        metrics |= rates(contenders, [(way, other) for way in (name, f"{name}_eager") for other in beside])
    return Figures(on.config | {"steps": steps, "compile time": "left out"}, metrics)


def rows(on: Subject, config: Any) -> int:
    """Return how many images the network evaluates in a gradient step."""
    suspect, seen = on.suspect(), list[int]()
    method(config.defense).invert(suspect, 0, lambda line: seen.append(suspect.evaluations))
    return (seen[-1] - seen[0]) // (len(seen) - 1)


def bare(on: Subject, batch: int, calls: int = 4) -> Callable[[], float]:
    """Return the rate of nothing but the network with its gradient to the input, weights frozen, in eager mode."""
    net, x = on.net().eval().requires_grad_(False), on.noise(batch).requires_grad_(True)
    t = torch.full((batch,), 7, device=on.device)

    def call() -> None:
        with autocast(on.precision, on.device):
            found = net(x, t).sample.float().sum()
        torch.autograd.grad(found, x)

    return on.rate(call, 1, calls)


def descent(on: Subject, config: Any, suspect: Suspect) -> Callable[[], float]:
    """Return the rate of a detection's gradient steps, the first of them, which is slower, left out."""
    detection = method(config.defense)

    def contender() -> float:
        stamps = []

        def watch(line: str) -> None:
            synchronize(on.device)
            stamps.append(time.perf_counter())

        detection.invert(suspect, 0, watch)
        return (len(stamps) - 1) / (stamps[-1] - stamps[0])

    return contender
