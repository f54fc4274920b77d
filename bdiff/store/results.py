"""One JSON per result, of a run or a benchmark, in the schema result/1 (docs/results.md). Torch-free."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bdiff.store import artifacts
from bdiff.store.provenance import code
from bdiff.store.schema import (
    FIELDS,
    MORE,
    SCHEMA,
    cell_problems,
    metric_problems,
    misfits,
    plain,
    protocol_problems,
    provenance_problems,
    time_problems,
)

__all__ = ["FIELDS", "SCHEMA", "problems", "result", "write"]


def result(
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    *,
    device: str,
    protocol: Mapping[str, Any],
    provenance: Mapping[str, Any],
    made: Mapping[str, Any] | None = None,  # commit, version and dirty; those of the code that runs if None
    **more: Any,
) -> dict[str, Any]:
    """Return a result; `more` are extra fields, which readers may ignore. ValueError if it breaks the schema."""
    made = made or code()
    found = {
        "schema": SCHEMA,
        "config": dict(config),
        **{name: made[name] for name in ("commit", "version", "dirty")},
        "device": device,
        "protocol": dict(protocol),
        "provenance": dict(provenance),
        "metrics": dict(metrics),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **more,
    }
    if wrong := problems(found):
        raise ValueError("; ".join(wrong))
    return found


def write(path: Path, *args: Any, **fields: Any) -> None:
    """Write `result(...)` to `path`."""
    artifacts.write_json(path, result(*args, **fields))


def problems(found: Any) -> list[str]:
    """Return what is wrong with a result read from a file, a line per field; empty if it fits the schema.

    A result with a `cell` has no other fields than the schema's; a benchmark may have more, but none that is nearly one
    of them, as a field spelt wrong is.
    """
    if not isinstance(found, dict):
        return ["it is not a JSON object"]
    wrong = misfits(found, FIELDS | MORE, "", strict="cell" in found)
    if isinstance(found.get("schema"), str) and found["schema"] != SCHEMA:
        wrong.append(f"schema is {plain(found['schema'])}, not {SCHEMA}")
    if "dirty" in found and "commit" in found and (found["dirty"] is None) != (found["commit"] is None):
        wrong.append("dirty must be null if commit is, and only then")
    if isinstance(found.get("date"), str):
        wrong += time_problems(found["date"])
    metrics = found["metrics"] if isinstance(found.get("metrics"), dict) else {}
    within: dict[str, Callable[[dict[str, Any]], list[str]]] = {
        "metrics": metric_problems,
        "protocol": protocol_problems,
        "provenance": provenance_problems,
        "cell": lambda cell: cell_problems(cell, metrics),
    }
    return wrong + [line for name, check in within.items() if isinstance(found.get(name), dict)
                    for line in check(found[name])]  # fmt: skip
