"""The process of one job of a sweep: forked by a server that has imported everything already, or a new Python.

A job's standard input is a pipe whose end means that the sweep is gone; it then ends in order.
"""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Protocol

#: set for a job's process: its standard input is a pipe whose end means that the sweep is gone
WATCHED = "BDIFF_WATCHED"

#: set by the user to `new`: each job in a new Python, as where processes cannot be forked
JOBS = "BDIFF_JOBS"

#: of the environment, what differs between the jobs of a process: read when a job computes, not when it is loaded
OWN = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")

#: how a server writes a number
NUMBER = struct.Struct("!i")


@cache
def watched() -> bool:
    """Return whether a sweep has started this process as a job; processes that this one starts are none of its jobs."""
    return os.environ.pop(WATCHED, None) is not None


class Process(Protocol):
    """A job at work."""

    def wait(self, seconds: float) -> int | None:
        """Return its exit code, negative for a signal; None if it has not ended within `seconds`."""

    def end(self) -> None:
        """End the job's input, and return when the job is gone."""


class New:
    """A job in a Python of its own."""

    def __init__(self, words: list[str], environment: dict[str, str], output: IO[str]):
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bdiff", *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which then ends the job, once
        )

    def wait(self, seconds: float) -> int | None:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Server:
    """A server of jobs (bdiff/cli/server.py), one at a time, which ends with this process.

    `output` gets what it prints before it is ready; `name` tells it from others in a list of processes.
    """

    def __init__(self, environment: dict[str, str], output: IO[str], name: str):
        self.made_for, self.ready = surroundings(environment), False
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bdiff.cli.server", name],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def answer(self, seconds: float | None = None) -> int | None:
        """Return the server's next number; None if none comes within `seconds`. EOFError if the server is gone."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return None
        with suppress(ConnectionError):
            if found := self.socket.recv(NUMBER.size, socket.MSG_WAITALL):
                return int(NUMBER.unpack(found)[0])
        raise EOFError

    def fork(self, words: list[str], environment: dict[str, str], files: list[int]) -> int:
        """Return the number of a new process for a job, with its input and output. EOFError if the server is gone."""
        request = json.dumps([words, environment]).encode()
        try:
            socket.send_fds(self.socket, [NUMBER.pack(len(request))], files)
            self.socket.sendall(request)
        except ConnectionError as error:
            raise EOFError from error
        number = self.answer()
        assert number is not None
        return number

    def close(self) -> int:
        """End the server, if it has not ended, and return its exit code."""
        self.socket.close()
        self.process.kill()
        return self.process.wait()


class Forked:
    """A job in a process that a server forks, as soon as the server is ready."""

    def __init__(self, server: Server, words: list[str], environment: dict[str, str], output: IO[str]):
        self.server, self.words, self.environment, self.output = server, words, environment, output
        self.number: int | None = None  # of its process
        self.code: int | None = None
        self.given, life = os.pipe()
        self.life = os.fdopen(life, "wb")

    def wait(self, seconds: float) -> int | None:
        try:
            if self.number is not None:
                self.code = self.server.answer(seconds)
            elif self.server.ready or self.server.answer(seconds) is not None:
                self.server.ready = True
                self.number = self.server.fork(self.words, self.environment, [self.given, self.output.fileno()])
        except EOFError:
            self.code = self.lost()
        return self.code

    def lost(self) -> int:
        """End the job whose server is gone, so that nothing is left of it; returns its exit code."""
        code = self.server.close()
        if self.number is None:
            return code
        with suppress(ProcessLookupError):
            os.killpg(self.number, signal.SIGKILL)
        return -signal.SIGKILL

    def end(self) -> None:
        self.life.close()
        os.close(self.given)
        if self.code is None:  # this process has been interrupted, perhaps amid an answer
            while self.number is not None and self.server.process.poll() is None and is_there(self.number):
                time.sleep(0.1)
            self.server.close()


def is_there(process: int) -> bool:
    """Return whether there is a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def surroundings(environment: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """Return what the jobs of one server share: the folder they start in, and what libraries read when loaded."""
    return Path.cwd(), {name: value for name, value in environment.items() if name not in OWN}


kept: Server | None = None  # of this process


def start(words: list[str], environment: dict[str, str], output: IO[str], name: str) -> Process:
    """Start `bdiff` with `words` in a process of its own whose output goes to a file.

    `environment` is added to that of this process; `name` is for a list of processes.
    """
    global kept
    environment = os.environ | environment | {WATCHED: "1"}
    if os.environ.get(JOBS) == "new" or sys.platform != "linux":
        return New(words, environment, output)
    if kept is None or kept.process.poll() is not None or kept.made_for != surroundings(environment):
        if kept is not None:
            kept.close()
        kept = Server(environment, output, name)
    return Forked(kept, words, environment, output)
