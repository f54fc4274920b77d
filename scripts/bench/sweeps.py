"""Jobs a second of a sweep of tiny jobs: forked from one process that has imported everything, or new processes."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bdiff.launch.process import JOBS
from bench.timing import Figures, rates

ROOT = Path(__file__).parents[2]
TINY = [
    *("data=digits", "data.limit=64", "model.unet.block_out_channels=[8,8,8]", "train.steps=2", "train.batch_size=16"),
    *("sample.count=4", "sample.steps=4", "metric/fid=none", "tracker=none", "runtime.device=cpu"),
]


def sweeps(jobs: int) -> Figures:
    """Run a sweep of `jobs`, one at a time, each way."""
    contenders = {way: (lambda way=way: jobs / sweep(jobs, way)) for way in ("forked", "new")}
    config = {"jobs": jobs, "cores": os.cpu_count(), "compile time": "nothing is compiled"}
    return Figures(config, rates(contenders, [("forked", "new")]))


def sweep(count: int, way: str) -> float:
    """Return the seconds of a sweep of `count` tiny jobs, whose processes are `forked` or `new`."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = f"seed={','.join(map(str, range(count)))}"
        words = [sys.executable, "-m", "bdiff", "run", "-m", *TINY, seeds, f"paths.outputs={folder}"]
        began = time.monotonic()
        subprocess.run(words, check=True, capture_output=True, cwd=ROOT, env=os.environ | {JOBS: way})
        return time.monotonic() - began
