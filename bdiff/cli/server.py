"""`python -m bdiff.cli.server`: imports once what every job of a sweep needs, then forks a process for each.

Its standard input is a socket whose other end has the process that runs a sweep's jobs (bdiff/launch/process.py). The
server says 0 when it is ready. Then it takes one request at a time, with the job's own input and output, and answers
with the job's process number and, in the end, its exit code: numbers of 4 bytes. It ends with the socket.

It computes nothing, opens no GPU and has one thread: neither OpenMP's nor CUDA's state survives a fork.
"""

import atexit
import gc
import json
import os
import runpy
import socket
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from bdiff.launch.process import NUMBER
from bdiff.library.request import composed
from bdiff.store import provenance
from bdiff.store.threads import wait_briefly

#: what jobs import, most of them only when it is needed
MODULES = (
    *("bdiff.cli.run", "bdiff.launch.job", "bdiff.pipeline.main", "bdiff.report.gallery", "bdiff.report.page"),
    *("torchmetrics.image", "sklearn.datasets", "scipy.linalg"),
)


def main() -> None:
    """Serve jobs; in the process of each, be the `python -m bdiff` that it asks for."""
    connection = socket.socket(fileno=0)
    prepare()
    sys.stdout.flush()
    with Path(os.devnull).open("w") as nowhere:  # the first job's output is locked as long as anybody has it open
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    connection.sendall(NUMBER.pack(0))
    if words := serve(connection):
        leave(run(words))
    os._exit(0)  # there is nothing to close


def prepare() -> None:
    """Import what jobs need. What fails does so again in the job that needs it, which says so."""
    os.environ |= {"MPLBACKEND": "Agg", "OPENBLAS_NUM_THREADS": "1"}
    # diffusers looks for GPUs when it is imported, which would open CUDA here: so it finds none.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    wait_briefly()
    gc.disable()  # it slows imports
    for name in MODULES:
        with suppress(Exception):
            import_module(name)
    with suppress(Exception), composed([]):  # what Hydra, and the checks, read once
        pass
    provenance.code()  # what is loaded here, whatever is committed before a job starts
    gc.freeze()  # jobs share these pages as long as nobody writes to them
    gc.enable()


def serve(connection: socket.socket) -> list[str]:
    """Fork a process for each request. Returns the words of one in its process; nothing here, when all is over."""
    with suppress(ConnectionError):  # who asked is gone
        while True:
            size, files, *_ = socket.recv_fds(connection, NUMBER.size, 2)
            if not size:
                break
            (length,) = NUMBER.unpack(size)
            request = connection.recv(length, socket.MSG_WAITALL)
            process = os.fork()
            if not process:
                connection.detach()  # the job's input takes its place
                return become(*json.loads(request), *files)
            for file in files:
                os.close(file)
            connection.sendall(NUMBER.pack(process))
            _, status = os.waitpid(process, 0)
            connection.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
    return []


def run(words: list[str]) -> int:
    """Do what `python -m bdiff` does with these words; returns its exit code."""
    sys.argv = ["bdiff", *words]
    try:
        runpy.run_module("bdiff", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:  # Ctrl-C amid the last words, perhaps
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End a job's process as Python does, but for taking all objects apart, which takes longer than a small job."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads; multiprocessing's children end likewise
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def become(words: list[str], environment: dict[str, str], given: int, output: int) -> list[str]:
    """Make this process one of its own, with what a job has been given; returns the words of its command."""
    os.setsid()
    for stream, file in enumerate((given, output, output)):
        os.dup2(file, stream)
    os.close(given)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # jobs would draw the same where nobody has set a seed
    return words


if __name__ == "__main__":
    main()
