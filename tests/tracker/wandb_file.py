"""What wandb wrote offline, read back from its own file format."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record


def read_back(folder: Path, patience: float = 30) -> list[Record]:
    """Every record of the one offline run under `folder`, the last of which wandb's process may yet have to write."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + patience
    while True:
        records = [Record.FromString(data) for data in leveldb_records(path.read_bytes())]
        if any(record.HasField("exit") for record in records):
            return records
        assert time.monotonic() < deadline, "the run was never closed"
        time.sleep(0.1)


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log, wandb's file format: 32 KiB blocks of (crc, length, type) and data."""
    at, parts = 7, []  # after wandb's own header
    while at + 7 <= len(log):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", log[at : at + 7])
        if at + 7 + length > len(log):  # half written
            return
        parts.append(log[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield b"".join(parts)
            parts = []


def history(records: list[Record]) -> list[dict[str, Any]]:
    """The rows that were logged."""
    rows = [record.history.item for record in records if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def summary(records: list[Record]) -> dict[str, Any]:
    """What the run's summary was set to."""
    items = [item for record in records if record.HasField("summary") for item in record.summary.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def artifact(records: list[Record]) -> dict[str, Path]:
    """The files of the run's artifacts, by their names there, where `wandb sync` reads them."""
    found = [entry for record in records if record.HasField("artifact") for entry in record.artifact.manifest.contents]
    return {entry.path: Path(entry.local_path) for entry in found}


def exit_code(records: list[Record]) -> int:
    """With which the run was closed."""
    return next(record.exit.exit_code for record in records if record.HasField("exit"))
