"""The steps by name, and their parts, in order."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.all import BENCHES
from bench.subject import subject

from bdiff.store.provenance import device_name
from card import facts, runs
from card.kept import keep

ROOT = Path(__file__).parents[2]
#: the benchmarks that say something of a card
TAKEN = [name for name in BENCHES if name not in ("scaling", "streaming", "sweeps")]
#: those that are taken of another network than the 35.7 M DDPM at 32 px
NETWORKS = {"memory": "celebahq"}


class Part(NamedTuple):
    """Steps with a common time budget."""

    name: str
    share: float  # fraction of the total time
    steps: list[str]


def tests(asked: argparse.Namespace) -> None:
    """Run the tests that need a GPU, a process for each file; exit code 3 without pytest."""
    try:
        import pytest  # noqa: F401
    except ImportError:
        print("pytest is not installed here")
        sys.exit(3)
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text()]
    if asked.tiny:
        files = [path for path in files if path.name == "test_train.py"]
    codes = {
        path.name: subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "--rootdir", ROOT, path], cwd=ROOT
        ).returncode
        for path in files
    }
    bad = [name for name, code in codes.items() if code]
    facts.keep_tests(asked, codes)
    if bad:
        sys.exit(f"failed: {', '.join(bad)}")


def bench(name: str) -> Callable[[argparse.Namespace], None]:
    """Return the step that takes the figures of a benchmark, of the network that it is for or of a miniature."""

    def take(asked: argparse.Namespace) -> None:
        on = subject("tiny" if asked.tiny else NETWORKS.get(name, "cifar10"), asked.device, "bf16")
        found = BENCHES[name](on)
        metrics = dict(found.metrics)
        machine = asked.state / "results" / "machine.json"
        if "flops" in metrics and machine.exists():  # the part of the measured matmul rate that it comes to
            most = json.loads(machine.read_text())["metrics"]["matmul_bf16_flops"]
            metrics["fraction_of_matmul"] = metrics["bdiff"] * metrics["flops"] / most
        keep(asked.state, name, found.config, metrics, device=device_name(on.device), **found.more)

    return take


STEPS: dict[str, Callable[[argparse.Namespace], None]] = {
    "machine": facts.machine,
    **{name: bench(name) for name in TAKEN},
    "tests": tests,
    **{name: runs.step(name) for name in runs.RUNS},
}

PARTS = [
    Part("a machine", 0.05, ["machine"]),
    Part("c bench", 0.2, [*TAKEN]),
    Part("d base model", 0.3, ["base"]),
    Part("b tests", 0.12, ["tests"]),
    Part("d attacked", 0.2, [name for name in runs.RUNS if name not in ("base", "diff2")]),
    Part("e DIFF2", 0.13, ["diff2"]),
]
