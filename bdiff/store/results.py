"""One JSON per result, of a run or a benchmark, in the schema result/1 (docs/results.md). Torch-free."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdiff.store import artifacts
from bdiff.store.provenance import code

SCHEMA = "result/1"

#: the types and the meaning of each field
FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "schema": ((str,), f"is {SCHEMA}"),
    "config": ((dict,), "the resolved config"),
    "commit": ((str, type(None)), "of bdiff, 40 hex digits; null from a wheel"),
    "version": ((str,), "of bdiff"),
    "dirty": ((bool, type(None)), "whether the tree had uncommitted changes; null without a commit"),
    "device": ((str,), "name of the device that computed the numbers"),
    "protocol": ((dict,), "what is needed to compare the numbers"),
    "provenance": ((dict,), "the provenance of each stage that the numbers depend on, by its name"),
    "metrics": ((dict,), "numbers by name"),
    "date": ((str,), "when it was written, as 2026-01-31T12:00:00+0000"),
}


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
    """Return what is wrong with a result read from a file, a line per field; empty if it fits the schema."""
    if not isinstance(found, dict):
        return ["it is not a JSON object"]
    wrong = [f"{name} is missing: {says}" for name, (_, says) in FIELDS.items() if name not in found]
    for name, (types, says) in FIELDS.items():
        if name in found and type(found[name]) not in types:
            wrong.append(f"{name} is {kind(found[name])}, not {' or '.join(map(named, types))}: {says}")
    if isinstance(found.get("schema"), str) and found["schema"] != SCHEMA:
        wrong.append(f"schema is {found['schema']}, not {SCHEMA}")
    commit = found.get("commit")
    if isinstance(commit, str) and (len(commit) != 40 or set(commit) - set("0123456789abcdef")):
        wrong.append(f"commit is {commit!r}, not 40 hex digits")
    if "dirty" in found and "commit" in found and (found["dirty"] is None) != (commit is None):
        wrong.append("dirty must be null if commit is, and only then")
    metrics = found.get("metrics")
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if type(value) not in (int, float) or value != value or abs(value) == float("inf"):
            wrong.append(f"metrics.{name} is {value!r}, not a finite number")
    return wrong


def kind(value: Any) -> str:
    """Return the JSON name of a value's type."""
    return named(type(value))


def named(of: type) -> str:
    """Return the JSON name of a type."""
    names = {str: "text", dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(of, "a number")
