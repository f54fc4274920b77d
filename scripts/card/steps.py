"""The steps by name, and their parts, in order."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from card import engine, facts, runs

ROOT = Path(__file__).parents[2]


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


STEPS: dict[str, Callable[[argparse.Namespace], None]] = {
    "machine": facts.machine,
    "training": engine.training,
    "sampling": engine.sampling,
    "inversion": engine.inversion,
    "certification": engine.certification,
    "fid": engine.fid,
    "compiled": engine.compiled,
    "profile": engine.profile,
    "tests": tests,
    **{name: runs.step(name) for name in runs.RUNS},
}

PARTS = [
    Part("a machine", 0.05, ["machine"]),
    Part("c engine", 0.2, ["training", "sampling", "inversion", "certification", "fid", "profile", "compiled"]),
    Part("d base model", 0.3, ["base"]),
    Part("b tests", 0.12, ["tests"]),
    Part("d attacked", 0.2, [name for name in runs.RUNS if name not in ("base", "diff2")]),
    Part("e DIFF2", 0.13, ["diff2"]),
]
