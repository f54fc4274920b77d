"""How many threads a run computes with, decided before torch is loaded. Torch-free on import.

OpenMP's threads wait for each other by spinning. With another busy process on the same cores that is very slow: two
threads on two cores were 15 times slower than one. So there are no more threads than free cores, and the spin count is
a tenth of the usual one, so that a process started later does little harm. (Training steps of the digits, on two cores
with AMX: as fast as with the usual count; beside a busy process as fast as with a count of 1,000, with which threads
sleep between short operations, so that steps on idle cores take a third longer.)
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from threadpoolctl import threadpool_limits

from bdiff.store import artifacts

log = logging.getLogger(__name__)

LOOK = 0.2  # seconds over which the cores are watched: a load average covers the last minutes
SPINS = "30000"  # of a waiting thread, in libgomp, torch's OpenMP on Linux
KEPT = "threads.json"  # in a stage's folder


def allowed(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use, by its affinity and its control group's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(quota(cgroup) or cores)))


def quota(cgroup: Path) -> float | None:
    """Return how many cores' time a control group allows (version 2 or 1), None if it sets no limit."""
    try:
        if (cgroup / "cpu.max").exists():
            most, period = (cgroup / "cpu.max").read_text().split()
        else:
            most, period = ((cgroup / "cpu" / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        return float(most) / float(period) if most.strip() not in ("max", "-1") else None
    except (OSError, ValueError):  # no control groups here, or of another kind
        return None


def idle(stat: Path = Path("/proc/stat")) -> dict[int, tuple[int, int]]:
    """Return for each core its idle and its total time, in ticks; empty if the system does not report them."""
    found = {}
    for line in stat.read_text().splitlines() if stat.exists() else []:
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            times = [int(tick) for tick in ticks[:8]]  # user, nice, system, idle, iowait, irq, softirq, steal
            found[int(name[3:])] = (times[3] + times[4], sum(times))
    return found


def free(cores: int, look: Callable[[], dict[int, tuple[int, int]]] = idle, seconds: float = LOOK) -> int:
    """Return how many of the `cores` allowed are not in use by other processes, over `seconds`; at least 1."""
    before = look()
    time.sleep(seconds)
    after = look()
    mine = os.sched_getaffinity(0) & before.keys() & after.keys() if hasattr(os, "sched_getaffinity") else set()
    if not mine:
        return cores
    idle_rates = [(after[core][0] - before[core][0]) / max(1, after[core][1] - before[core][1]) for core in mine]
    return max(1, min(cores, int(sum(idle_rates) + 0.3)))  # a core that is busy for less than a third counts as free


def choose(setting: int | str) -> int:
    """Return the number of threads for `runtime.threads`, a number or auto.

    `auto` is the user's OMP_NUM_THREADS, else the number of free cores divided by the run's processes.
    """
    if setting != "auto":
        return int(setting)
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, free(allowed()) // (int(processes) if processes.isdigit() and int(processes) else 1))


def settle(setting: int | str) -> int:
    """Choose the number of threads, set it for torch and numpy, whether already imported or not, and return it.

    If torch is already imported, the way its threads wait is already fixed and stays.
    """
    number = choose(setting)
    if "torch" in sys.modules:
        threadpool_limits(number)  # of numpy's and scipy's OpenBLAS too, which torch does not know
        sys.modules["torch"].set_num_threads(number)
    else:
        os.environ["OMP_NUM_THREADS"] = str(number)
        wait_briefly()
    return number


def wait_briefly() -> None:
    """Let the threads of a torch that is not yet loaded spin for a short time, unless the user says how they wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def begin(folder: Path) -> None:
    """Save in a stage's folder the number of threads that it starts with, unless it has started before."""
    import torch

    if not (folder / KEPT).exists():
        artifacts.write_json(folder / KEPT, torch.get_num_threads())


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Compute with the number of threads that the stage in `folder` started with.

    Floating-point sums depend on it, so a resumed stage keeps its own number, for bit-identical results.
    """
    import torch

    now = torch.get_num_threads()
    number = artifacts.recall(folder / KEPT, now)
    if number != now:
        log.info("resuming with the %d threads it started with, not %d", number, now)
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(now)
