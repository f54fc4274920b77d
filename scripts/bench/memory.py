"""Bytes that a training takes of a card, and what it costs to take fewer: in parts of a batch, and recomputed."""

from dataclasses import replace

import torch

from bench.subject import Subject
from bench.timing import Figures
from bench.training import LOOP, trained

#: by name, how a batch is trained on; "whole" is what a run does that asks for nothing
WAYS = {
    "whole": LOOP,
    "micro": replace(LOOP, micro_batch=16),
    "recompute": replace(LOOP, recompute=True),
    "both": replace(LOOP, micro_batch=16, recompute=True),
}


def memory(on: Subject, batch: int, steps: int = 2) -> Figures:
    """Train `steps` steps of `batch` rows each way, alone on the device; a way that does not fit has no figures.

    Bytes are the most that torch has allocated, and of a CPU there are none.
    """
    metrics, failed = {}, {}
    for name, loop in WAYS.items():
        if on.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(on.device)
        try:
            metrics[name] = trained(on, batch, steps, loop, first=1)()
        except torch.OutOfMemoryError as error:
            failed[name] = str(error).splitlines()[0]
            continue
        if on.device.type == "cuda":
            metrics[f"{name}_peak_bytes"] = float(torch.cuda.max_memory_allocated(on.device))
    config = on.config | {"batch": batch, "steps": steps, "mode": "eager"}
    return Figures(config, metrics, {"out_of_memory": failed} if failed else {})
