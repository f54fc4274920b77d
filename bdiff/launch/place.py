"""Where a job of a sweep runs: a GPU that has room for it, or a part of the CPU's cores. Imports no torch."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
from omegaconf import DictConfig

from bdiff.store import threads

#: the sweep of a job, set by Hydra in the process of its launcher: <process number>-<time>
SWEEP = "BDIFF_SWEEP"
#: how many jobs it has to run, set likewise
TO_RUN = "BDIFF_SWEEP_JOBS"

MOST = 8  # jobs on a GPU with sweep.jobs_per_gpu=auto
BUSY = 0.7  # fraction of the time that a GPU computes, from which on it has no room for another job
SETTLED = 60.0  # seconds after which a job's use of its GPU shows
LOOKS, PAUSE = 3, 0.3  # how often a GPU's use is read, and the seconds in between


@contextmanager
def place(config: DictConfig, parallel: int, sweep_ended: Callable[[], bool]) -> Iterator[dict[str, str]]:
    """Yield the environment for one of `parallel` jobs: a GPU with room for it, or a part of the CPU's cores.

    There are `sweep.jobs_per_gpu` places on each visible GPU, or, with auto, as many as its jobs leave room for; a job
    waits until one is free. KeyboardInterrupt if the sweep ends first.
    """
    if parallel == 1 or config.runtime.device not in ("auto", "cpu", "cuda"):  # or the user has chosen a GPU
        yield {}
        return
    gpus = [] if config.runtime.device == "cpu" else visible_gpus()
    if not gpus:
        cores = threads.allowed()
        jobs = parallel if parallel > 0 else max(1, cores + 1 + parallel)  # joblib's way to count down from all cores
        jobs = max(1, min(jobs, int(os.environ.get(TO_RUN, jobs))))  # a lone job need not leave cores to others
        yield {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
        return
    root = Path(tempfile.gettempdir()) / f"bdiff-gpus-{os.getuid()}"
    root.mkdir(exist_ok=True)
    while not sweep_ended():
        if claimed := claim(root, gpus, config.sweep.jobs_per_gpu):
            gpu, held = claimed
            try:
                yield {"CUDA_VISIBLE_DEVICES": gpu}
            finally:
                held.release()
            return
        time.sleep(0.5)
    raise KeyboardInterrupt


def claim(root: Path, gpus: list[str], jobs: int | str) -> tuple[str, filelock.BaseFileLock] | None:
    """Return a GPU with a free place and the lock that holds the place, None if there is none now.

    A GPU without a job comes first. With jobs=auto a further one is placed on a GPU that its jobs, which have had time
    to settle, leave room on.
    """
    for k in range(MOST if jobs == "auto" else int(jobs)):
        if k == 1 and jobs == "auto":
            gpus = [gpu for gpu in gpus if settled(root, gpu)]
        for gpu in [*gpus]:
            if k and jobs == "auto" and not has_room(gpu, jobs=k):
                gpus.remove(gpu)
                continue
            held = filelock.FileLock(root / f"{gpu}.{k}.lock")
            try:
                held.acquire(timeout=0)
            except filelock.Timeout:
                continue
            (root / f"{gpu}.newest").touch()
            return gpu, held
    return None


def settled(root: Path, gpu: str) -> bool:
    """Return whether the newest job on a GPU has run for some time."""
    newest = root / f"{gpu}.newest"
    return not newest.exists() or time.time() - newest.stat().st_mtime > SETTLED


def has_room(gpu: str, jobs: int) -> bool:
    """Return whether a GPU with some jobs has time and memory for one more, that may need as much as each of them."""
    looks = []
    for look in range(LOOKS):
        time.sleep(PAUSE if look else 0)
        if (seen := usage(gpu)) is None:
            return False
        looks.append(seen)
    busy, used, total = (max(values) for values in zip(*looks, strict=True))
    return busy < BUSY and used * (jobs + 1) / jobs < total


def usage(gpu: str) -> tuple[float, float, float] | None:
    """Return the fraction of the time that a GPU computes, and its memory used and in all, in MiB.

    None where nvidia-smi does not say.
    """
    query = "--query-gpu=utilization.gpu,memory.used,memory.total"
    words = ["nvidia-smi", "-i", gpu, query, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        busy, used, total = map(float, answer.split(","))
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return busy / 100, used, total


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that a process may use, as named in CUDA_VISIBLE_DEVICES, without torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu and gpu != "-1"]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
