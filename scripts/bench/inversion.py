"""Trigger inversion, gradient steps a second: bdiff's, and one in fp32 whose weights keep their gradients.

The second is what one gets from a network as it is loaded: nothing frozen, nothing cast.
"""

import time
from collections.abc import Callable
from typing import Any

from bdiff.common.device import synchronize
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
            f"{name}": descent(on, config, on.suspect(batch, gradients=True)),
            f"{name}_eager": descent(on, config, on.suspect()),
            f"{name}_published": descent(on, config, published),
        }
        metrics |= rates(contenders, [(name, f"{name}_published"), (f"{name}_eager", f"{name}_published")])
    return Figures(on.config | {"steps": steps, "compile time": "left out"}, metrics)


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
