"""A sweep: every job in a process of its own, entered in the ledger, so that the same sweep again does what is missing.

Hydra's launchers decide where and how many at a time; whichever it is, what they run is `carry_out`.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bdiff import store
from bdiff.ledger import DONE, FAILED, INTERRUPTED, Ledger, config_key

#: set for a job's process: its standard input is a pipe whose end means that the sweep is gone
WATCHED = "BDIFF_WATCHED"

#: the process number of the sweep, for those of its launcher's processes that are its children
SWEEP = "BDIFF_SWEEP"

OUTPUT = "output.log"  # what a job's process printed, beside its run.log


def ledger_of(config: DictConfig) -> Ledger:
    """Return the ledger beside the outputs of `config`."""
    return Ledger(Path(config.paths.outputs) / "ledger.sqlite")


def carry_out(config: DictConfig) -> None:
    """Do one job in a process of its own, unless it is done already or the sweep has been stopped by a failure."""
    hydra = HydraConfig.get()
    folder, sweep = Path(hydra.runtime.output_dir), Path(hydra.sweep.dir).absolute()
    ledger, key = ledger_of(config), config_key(config)
    failed = any(one.status == FAILED and one.sweep == str(sweep) for one in ledger.attempts())
    if ledger.done(key) or (failed and config.sweep.on_failure == "stop"):
        if not any(folder.iterdir()):  # Hydra has just made it
            folder.rmdir()
        return
    parallel = int(hydra.launcher.get("n_jobs", 1))
    number = ledger.start(key, sweep, folder, list(hydra.overrides.task))
    try:
        with place(config, parallel) as environment:
            status, error = run_job(list(hydra.overrides.task), folder, environment)
    except KeyboardInterrupt:
        ledger.end(number, INTERRUPTED)
        raise
    ledger.end(number, status, error)


def run_job(overrides: list[str], folder: Path, environment: dict[str, str]) -> tuple[str, str | None]:
    """Run `bdiff run` with `overrides` into `folder`; returns how it ended, and a failure's one line."""
    command = [sys.executable, "-m", "bdiff", "run", *overrides, f"hydra.run.dir={quoted(folder)}"]
    with (folder / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment | {WATCHED: "1"},
        )
        assert process.stdin is not None
        try:
            code = wait(process)
        finally:  # also when this process is interrupted: the end of its input ends the job
            process.stdin.close()
            process.wait()
    record = store.read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
    status = record.get("status")
    if status in (DONE, FAILED, INTERRUPTED):
        return status, record.get("error")
    error = death(code, folder / OUTPUT)
    if record:
        store.write_json(folder / "metrics.json", record | {"status": FAILED, "error": error})
    return FAILED, error


def wait(process: subprocess.Popen) -> int:
    """Return the exit code that `process` ends with; KeyboardInterrupt if the sweep that we work for is gone first."""
    parent = os.getppid()
    ours = os.environ.get(SWEEP) == str(parent)
    while True:
        try:
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if ours and os.getppid() != parent:
                raise KeyboardInterrupt from None


def death(code: int, output: Path) -> str:
    """Return in one line how a process ended that left no word in metrics.json."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")
    lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("bdiff: ") if lines else f"ended with exit code {code}"


def quoted(path: Path) -> str:
    """Return a path as a value in Hydra's override grammar."""
    return '"' + str(path).replace('"', '\\"') + '"'


@contextmanager
def place(config: DictConfig, parallel: int) -> Iterator[dict[str, str]]:
    """Yield the environment for one of `parallel` jobs: a GPU that is free, or a share of the CPU's cores.

    There are `sweep.jobs_per_gpu` places on each visible GPU; a job waits until one is free.
    """
    if parallel == 1:
        yield {}
        return
    gpus = [] if config.runtime.device == "cpu" else visible_gpus()
    if not gpus:
        cores = os.cpu_count() or 1
        jobs = parallel if parallel > 0 else max(1, cores + 1 + parallel)  # joblib's way to count down from all cores
        yield {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
        return
    root = Path(tempfile.gettempdir()) / f"bdiff-gpus-{os.getuid()}"
    root.mkdir(exist_ok=True)
    places = [(gpu, root / f"{gpu}.{k}.lock") for k in range(config.sweep.jobs_per_gpu) for gpu in gpus]
    while True:
        for gpu, path in places:
            held = filelock.FileLock(path)
            try:
                held.acquire(timeout=0)
            except filelock.Timeout:
                continue
            try:
                yield {"CUDA_VISIBLE_DEVICES": gpu}
            finally:
                held.release()
            return
        time.sleep(0.5)


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that a process may use, as CUDA_VISIBLE_DEVICES names them; asks no torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
