"""How the processes of one run, started by torchrun or another launcher, find each other and share work."""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from bdiff.common.errors import RunError

log = logging.getLogger(__name__)
T = TypeVar("T")

MEETING = timedelta(minutes=5)  # that all processes have to come
#: Some stages are the first process's alone, and a lock may be another run's for hours: the others must wait.
PATIENCE = timedelta(days=7)
QUIET = 5.0  # seconds of waiting that are not worth a line


def meet(backend: str, within: timedelta = MEETING, quiet: float = QUIET) -> None:
    """Wait for the other processes that the environment names, if any, and log a line if it takes long.

    Raises RunError if they do not join: torchrun's variables may be left over from earlier work in the same shell.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world < 2 or dist.is_initialized():
        return
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    waiting = f"RANK={os.environ['RANK']} of WORLD_SIZE={world} processes waits for the others at {place}"
    line = threading.Timer(quiet, log.warning, (f"{waiting}, for at most {within}",))
    line.start()
    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=within))
    except (RuntimeError, ValueError) as error:  # torch's errors of networks and stores are RuntimeErrors
        raise RunError(
            f"{waiting}, which did not join ({' '.join(str(error).split())[:120]}): start them with torchrun, or unset "
            "WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT if they are left over"
        ) from error
    finally:
        line.cancel()
    store.set_timeout(PATIENCE)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)


@dataclass(frozen=True)
class Peers:
    """The processes that share some work, `count` of them, of which this one is number `rank`.

    All of them must call `gather`, and what rests on it, equally often and in the same order.
    """

    rank: int = 0
    count: int = 1

    def mine(self, whole: Sequence[T]) -> Sequence[T]:
        """Return this process's part of `whole`: every `count`-th item."""
        return whole[self.rank :: self.count]

    def gather(self, own: T) -> list[T]:
        """Return what each process gives, tensors on the CPU, in the order of their ranks; all get it."""
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, own)
        return found

    def wait(self) -> None:
        """Wait for the others."""
        self.gather(None)

    def join(self, own: Sequence[T]) -> list[T]:
        """Return one result for each item of a whole, in its order, of which this process has `own` for its `mine`."""
        parts = self.gather(own)
        return [parts[place % self.count][place // self.count] for place in range(sum(map(len, parts)))]

    def stream(self, own: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield, as they come, one tensor for each item of a whole, in its order; see `join`.

        Where there are several processes, these are on the CPU.
        """
        if self.count == 1:
            yield from own
            return
        coming = (one.cpu() for one in own)
        while came := [one for one in self.gather(next(coming, None)) if one is not None]:
            yield from came


ALONE = Peers()
