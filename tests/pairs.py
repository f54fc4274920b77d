"""Several processes that share a run, as torchrun would start them, forked from one that has imported everything."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import connection, forkserver
from typing import Any
from unittest import mock

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["shared_work", "diffusers.pipelines.ddpm", "torchmetrics.functional.image"])
PATIENCE = 100  # seconds


def together(work: Callable[..., Any], *arguments: Any, count: int = 2) -> list[int | None]:
    """Let `count` processes do `work(*arguments)`; return their exit codes, negative where one was killed.

    As torchrun does, this ends the others where one has failed.
    """
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}):
        forkserver.ensure_running()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [CONTEXT.Process(target=member, args=(rank, count, port, work, *arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    waiting = list(processes)
    while waiting:
        ended = connection.wait([process.sentinel for process in waiting], PATIENCE)
        waiting = [process for process in waiting if process.sentinel not in ended]
        if not ended or any(process.exitcode for process in processes):
            for process in waiting:
                process.terminate()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def member(rank: int, count: int, port: int, work: Callable[..., Any], *arguments: Any) -> None:
    """Be one of `count` processes that share some work."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    work(*arguments)
