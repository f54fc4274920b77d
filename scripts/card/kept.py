"""The saved results of steps, in the schema result/1, by name, with a digest of their source."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from bdiff.store import artifacts, results
from bdiff.store.provenance import versions


def source(root: Path) -> str:
    """Return 16 hex digits over the code and configs in `root`, to identify them on machines without a repository."""
    total = hashlib.sha256()
    for path in sorted([*root.glob("bdiff/**/*"), *root.glob("conf/**/*"), *root.glob("scripts/**/*.py")]):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:16]


def keep(
    state: Path, name: str, config: dict[str, Any], metrics: dict[str, float], *, device: str, **more: Any
) -> None:
    """Save a result of the current step."""
    root = Path(__file__).parents[2]
    protocol, made = more.pop("protocol", {}), more.pop("provenance", None) or {name: {"versions": versions()}}
    results.write(
        state / "results" / f"{name}.json", config, metrics, device=device, protocol=protocol, provenance=made,
        name=name, source=source(root), **more,
    )  # fmt: skip


def unpack(path: Path, root: Path) -> int:
    """Write each result of a results.json to results/gpu/; the commit is this tree's if it holds the same source."""
    packed = json.loads(path.read_text())
    state = subprocess.run(["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True).stdout
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    same, wrong = source(root), 0
    for one in packed["results"]:
        if one["commit"] is None and one["source"] == same and commit:
            one |= {"commit": commit, "dirty": bool(state.strip())}
        if problems := results.problems(one):
            print(f"{one.get('name')}: {'; '.join(problems)}")
            wrong = 1
            continue
        artifacts.write_json(root / "results" / "gpu" / f"{one['name']}.json", one)
        print(f"results/gpu/{one['name']}.json")
    return wrong
