"""How the processes of one run, started by torchrun or another launcher, find each other."""

import logging
import os
import threading
from datetime import timedelta

import torch.distributed as dist

from bdiff.common.errors import RunError

log = logging.getLogger(__name__)

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
