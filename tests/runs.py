"""Runs in the tests' own process, as a user's commands."""

import json
from collections.abc import Callable
from pathlib import Path

from bdiff.cli import main as cli


def carry_out(home: Path, folder: str, *overrides: str) -> tuple[int, dict]:
    """The exit code of one run with its outputs and cache below `home`, and its metrics.json, {} if it left none."""
    place = home / folder
    words = ["run", *overrides, f"paths.outputs={home}/outputs", f"paths.cache={home}/cache", f"hydra.run.dir={place}"]
    code = cli.command(words)
    record = place / "metrics.json"
    return code, json.loads(record.read_text()) if record.exists() else {}


def runner(*settings: str) -> Callable[..., tuple[int, dict]]:
    """Return `carry_out` with settings that all runs of a file have."""
    return lambda home, folder, *overrides: carry_out(home, folder, *settings, *overrides)
