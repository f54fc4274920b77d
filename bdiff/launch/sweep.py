"""A sweep: every job in its own process, recorded in the ledger, so that a repeated sweep runs only the missing jobs.

Hydra's launchers decide where jobs run and how many at a time; all of them call `carry_out`.
"""

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bdiff.config.folders import searched
from bdiff.config.rules import auto_or_count, one_of
from bdiff.config.words import quoted
from bdiff.launch.place import SWEEP, place
from bdiff.launch.process import start
from bdiff.store import artifacts
from bdiff.store.ledger import DONE, FAILED, INTERRUPTED, Ledger, config_key

INTERRUPTED_CODE = 130
OUTPUT = "output.log"  # the output of a job's process, next to its run.log


@dataclass(frozen=True)
class Sweep:
    """How the jobs of a sweep are run (conf/config.yaml: sweep)."""

    on_failure: Annotated[str, one_of("continue", "stop"), "what the other jobs do after a failure"]
    jobs_per_gpu: Annotated[
        int | str, auto_or_count, "jobs that share a GPU, with a parallel launcher; auto: as many as leave it room"
    ]


def ledger_of(config: DictConfig) -> Ledger:
    """Return the ledger next to the outputs of `config`."""
    return Ledger(Path(config.paths.outputs) / "ledger.sqlite")


def carry_out(config: DictConfig) -> None:
    """Run one job in its own process, unless it is already done or the sweep was stopped by a failure."""
    hydra = HydraConfig.get()
    sweep_ended = partial(abandoned, hydra)
    if sweep_ended():
        os._exit(INTERRUPTED_CODE)
    ledger, key, sweep = ledger_of(config), config_key(config), os.environ[SWEEP]
    made = Path(hydra.runtime.output_dir)
    unmake(made, hydra)  # Hydra has just created it; ours is named by the key, so that no other job ever runs there
    folder = made.with_name(f"{made.name}-{key[:8]}")
    stopped = config.sweep.on_failure == "stop" and ledger.failed(sweep)
    if stopped or ledger.done(key):
        return
    overrides, jobs_at_once = list(hydra.overrides.task), int(hydra.launcher.get("n_jobs", 1))
    with place(config, jobs_at_once, sweep_ended) as environment, alone(folder, sweep_ended) as output:
        if ledger.done(key):  # by a concurrent sweep
            return
        number = ledger.start(key, sweep, folder, overrides)
        try:
            status, error = run_job([*searched(hydra), *overrides], folder, environment, sweep_ended, output)
        except KeyboardInterrupt:
            ledger.end(number, INTERRUPTED)
            if sweep_ended():
                os._exit(INTERRUPTED_CODE)  # or joblib's worker would continue with the sweep's next job
            raise
        ledger.end(number, status, error)


@contextmanager
def alone(folder: Path, sweep_ended: Callable[[], bool]) -> Iterator[IO[str]]:
    """Yield the output file of a job in `folder`, once no other sweep is using the folder."""
    while (output := artifacts.claim(folder / OUTPUT)) is None:
        if sweep_ended():
            raise KeyboardInterrupt
        time.sleep(0.5)
    with output:
        yield output


def unmake(folder: Path, hydra: HydraConf) -> None:
    """Remove the folder that Hydra created for a job, with the files of its own options; a folder with more is kept."""
    if hydra.output_subdir:
        shutil.rmtree(folder / hydra.output_subdir, ignore_errors=True)
    for handler in [
        *logging.root.handlers
    ]:  # of hydra/job_logging=default: the sweep itself would continue to write there
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder.absolute():
            logging.root.removeHandler(handler)
            handler.close()
            Path(handler.baseFilename).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def abandoned(hydra: HydraConf) -> bool:
    """Return whether the sweep that started this joblib worker has ended; jobs on a cluster do not need theirs."""
    local = "joblib" in str(hydra.launcher.get("_target_"))
    # With n_jobs=1 joblib has no workers: the sweep's own process runs its jobs.
    return local and int(os.environ[SWEEP].partition("-")[0]) not in (os.getpid(), os.getppid())


def run_job(
    overrides: list[str],
    folder: Path,
    environment: dict[str, str],
    sweep_ended: Callable[[], bool],
    output: IO[str],  # receives the job's output
) -> tuple[str, str | None]:
    """Run `bdiff run` with `overrides` in `folder`; return its status, and the message of a failure.

    KeyboardInterrupt if the sweep ends first, as if the user had stopped this process too.
    """
    (folder / "metrics.json").unlink(missing_ok=True)  # of an earlier attempt
    output.truncate(0)  # of an earlier attempt
    words = ["run", *overrides, f"hydra.run.dir={quoted(folder)}"]
    process = start(words, environment, output, name=str(folder.parent))
    try:
        while (code := process.wait(0.2)) is None:
            if sweep_ended():
                raise KeyboardInterrupt
    finally:  # also if this process is interrupted
        process.end()
    record = artifacts.recall(folder / "metrics.json", dict[str, Any]())
    status = record.get("status")
    if status in (DONE, FAILED, INTERRUPTED):
        return status, record.get("error")
    error = death(code, folder / OUTPUT)
    if record:
        artifacts.write_json(folder / "metrics.json", record | {"status": FAILED, "error": error})
        from bdiff.report.page import write_run_page  # slow to import, and not needed for a wrong request

        write_run_page(folder)
    return FAILED, error


def death(code: int, output: Path) -> str:
    """Return in one line how a process ended that recorded no error in metrics.json."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")
    lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("bdiff: ") if lines else f"ended with exit code {code}"
