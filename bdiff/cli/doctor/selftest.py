"""A self-test: `bdiff run` trains, samples and measures for a few seconds in a temporary folder."""

import subprocess
import sys
import tempfile
import time

from bdiff.cli.doctor.finding import MISSING, OK, Finding

PATIENCE = 300  # seconds
TINY = (
    "tracker=none",
    "data=digits",
    "data.limit=64",
    "model.unet.block_out_channels=[8,8,8]",
    "train.steps=6",
    "train.batch_size=8",
    "train.warmup=2",
    "sample.count=12",
    "sample.batch_size=6",
    "sample.steps=4",
    "classifier.train.steps=5",
)


def selftest(device: str) -> Finding:
    """Return whether a tiny run on `device` (cpu, cuda) succeeds."""
    what = f"a run on {device}"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bdiff-doctor-") as scratch:
        places = [f"paths.outputs={scratch}/outputs", f"paths.cache={scratch}/cache", f"hydra.run.dir={scratch}/run"]
        words = [sys.executable, "-P", "-m", "bdiff", "run", *TINY, f"runtime.device={device}", *places]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return Finding(what, MISSING, f"not finished after {PATIENCE} s", "see what else this machine is running")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("bdiff: ")]
        line = lines[-1].removeprefix("bdiff: ") if lines else f"exit code {done.returncode}"
        return Finding(what, MISSING, line, f"bdiff run {' '.join(TINY)} runtime.device={device}")
    return Finding(what, OK, f"trained, sampled and measured in {time.monotonic() - began:.1f} s")
