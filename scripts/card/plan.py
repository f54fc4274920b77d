"""The plan: the steps in their order, and the time budget of each part."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from card.steps import PARTS

LEAST = 12.0  # seconds below which a step is not started
SOME = 45.0  # seconds that a step may take although its part's budget is used up, if time is left
CLOSING = 10.0  # seconds reserved for the end
#: contact sheets that are saved, if they exist
SHEETS = ("base-overview", "baddiffusion-overview", "purediffusion_backdoored-triggers", "terd_backdoored-triggers",
          "removal-repaired_triggered", "diff2-shield")  # fmt: skip
#: steps that the miniature skips, as there are similar ones
SPARED = ("fid", "elijah_backdoored", "terd_backdoored", "purediffusion_base", "elijah_base")


def carry_out(asked: argparse.Namespace) -> int:
    """Run the missing steps until the time is over; return 1 if a step failed."""
    began, end = time.monotonic(), time.monotonic() + 60 * asked.minutes - CLOSING
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.state / "results").mkdir(parents=True, exist_ok=True)
    log = Log(asked.state / "log.txt")
    log.write(f"--- {' '.join(sys.argv)}")
    failed, shared = 0, sum(part.share for part in PARTS)
    for part in PARTS:
        # A part has its fraction of the total time, plus the unused time of earlier parts.
        shared -= part.share
        until = end - (60 * asked.minutes - CLOSING) * shared
        for name in (name for name in part.steps if not (asked.tiny and name in SPARED)):
            failed |= step(asked, part.name, name, min(max(until, time.monotonic() + SOME), end), log)
    pack(asked)
    log.write(f"--- {time.monotonic() - began:.0f} s of {60 * asked.minutes:.0f}")
    shutil.copy(log.path, asked.out / "log.txt")
    return failed


class Log:
    """Lines for the terminal and for a file."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, line: str) -> None:
        """Write a line."""
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def step(asked: argparse.Namespace, part: str, name: str, until: float, log: Log) -> int:
    """Run one step in its own process, unless it is done; return 1 if it failed."""
    done, left = asked.state / "done" / name, until - time.monotonic()
    if done.exists():
        log.write(f"{part} {name}: done before")
        return 0
    if left < LEAST:
        log.write(f"{part} {name}: skipped, no time is left for it")
        return 0
    words = [sys.executable, str(Path(sys.argv[0]).resolve()), "step", name, "--state", str(asked.state.resolve()),
             "--device", asked.device, "--minutes", str(left / 60)]  # fmt: skip
    words += ["--data", str(asked.data.resolve())] if asked.data else []
    words += ["--tiny"] if asked.tiny else []
    output = asked.state / "output" / f"{name}.txt"
    output.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    with output.open("ab") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children, too
            process.wait()
            log.write(f"{part} {name}: stopped after {left:.0f} s, the next call resumes it")
            return 0
    took = time.monotonic() - began
    if code == 0:
        done.parent.mkdir(exist_ok=True)
        done.touch()
        log.write(f"{part} {name}: done in {took:.0f} s")
        return 0
    lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
    if code == 3:  # it cannot run on this machine
        log.write(f"{part} {name}: skipped, {lines[-1]}")
        return 0
    log.write(f"{part} {name}: failed after {took:.0f} s: {lines[-1] if lines else f'exit code {code}'}")
    for line in lines[-12:-1]:
        log.write(f"    {line}")
    return 1


def pack(asked: argparse.Namespace) -> None:
    """Write all results to one file, and the contact sheets next to it."""
    found = [json.loads(path.read_text()) for path in sorted((asked.state / "results").glob("*.json"))]
    (asked.out / "results.json").write_text(json.dumps({"results": found}, indent=1) + "\n")
    for name in SHEETS:
        if (path := asked.state / "sheets" / f"{name}.png").exists():
            shutil.copy(path, asked.out / path.name)
