"""The kernels that training and sampling spend their time in, in both modes, and how much of it a card is busy."""

import time
from dataclasses import replace

import torch

from bdiff.common.device import synchronize
from bench.sampling import drawn
from bench.subject import Subject
from bench.timing import Figures
from bench.training import LOOP, trained


def kernels(on: Subject, batch: int) -> Figures:
    """Return a table of kernels of each."""
    from torch.profiler import ProfilerActivity

    cuda = on.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    works = {
        "training": trained(on, batch, 5, replace(LOOP, compile=True)),
        "training_eager": trained(on, batch, 5, LOOP),
        "sampling": drawn(on, on.suspect(batch // 2), batch, 6),
        "sampling_eager": drawn(on, on.suspect(), batch, 6),
    }
    metrics, tables = {}, {}
    for name, work in works.items():
        work()
        synchronize(on.device)
        began = time.perf_counter()
        with torch.profiler.profile(activities=kinds) as seen:
            work()
            synchronize(on.device)
        wall, events = time.perf_counter() - began, seen.key_averages()
        order = "self_device_time_total" if cuda else "self_cpu_time_total"
        tables[name] = events.table(sort_by=order, row_limit=20, max_name_column_width=60)
        metrics[f"{name}_wall_seconds"] = wall
        if cuda:
            metrics[f"{name}_busy"] = sum(one.self_device_time_total for one in events) / 1e6 / wall
    return Figures(on.config | {"batch": batch}, metrics, {"tables": tables})
