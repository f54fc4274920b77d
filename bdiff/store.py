"""Where artifacts live: config -> key -> folder, with atomic writes, locks and manifests.

A stage's folder is `<outputs>/<stage>/<key>/`. It is finished exactly when it holds `manifest.json`, which is
written last; anything else in it is work in progress that a restarted run picks up.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

log = logging.getLogger(__name__)


def digest(value: Any) -> str:
    """Return 16 hex digits of the sha256 over `value` as canonical JSON: the key of whatever it describes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` (file or folder), on error it is removed.

    An existing folder at `path` is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, so that writers which insist on a file's ending get the one they asked for.
    scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
    try:
        yield scratch / path.name
        if path.is_dir():
            path.rename(scratch / "replaced")
        (scratch / path.name).replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as readable JSON; a nan or inf in it raises ValueError."""
    with atomic(path) as scratch:
        scratch.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what `write_json` wrote."""
    return json.loads(path.read_text())


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for another process that holds it (the system frees a dead one's)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(path)
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        log.info("waiting for another process that is building %s", path.with_suffix("").name)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def content(*tensors: Any) -> str:
    """Return 16 hex digits of the sha256 over tensors' shapes and values: the key of pictures, wherever they lay."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(repr(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`; only for who holds its lock."""
    for scratch in list(folder.rglob(".tmp-*")):
        shutil.rmtree(scratch, ignore_errors=True)


class Clock:
    """Seconds of work in a stage's folder over all attempts, written down as they pass: a kill loses the last few.

    `writes` is for the one process that writes there.
    """

    EVERY = 5.0  # seconds

    def __init__(self, folder: Path, writes: bool):
        self.path, self.writes = folder / "seconds.json", writes
        self.before = read_json(self.path) if self.path.exists() else 0.0
        self.began, self.over = time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self.tick, daemon=True)

    @property
    def seconds(self) -> float:
        """All of them so far."""
        return self.before + time.monotonic() - self.began

    def tick(self) -> None:
        """Write them down now and then."""
        while not self.over.wait(self.EVERY):
            write_json(self.path, self.seconds)

    def __enter__(self) -> "Clock":
        if self.writes:
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.writes:
            self.over.set()
            self.thread.join()
            write_json(self.path, self.seconds)


@dataclass
class Stage:
    """One finished or growing artifact: what it is made from (`parts`), and the folder it is made in."""

    name: str
    key: str
    folder: Path
    parts: dict[str, Any]
    version: int

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What was recorded when the stage finished, or None while it has not."""
        path = self.folder / "manifest.json"
        return read_json(path) if path.exists() else None

    def finish(self, seconds: float, **facts: Any) -> dict[str, Any]:
        """Record that the stage is whole, after `seconds` of work, with what later stages may ask of it."""
        manifest = {
            "stage": self.name,
            "key": self.key,
            "version": self.version,
            "parts": self.parts,
            "seconds": round(seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **facts,
        }
        write_json(self.folder / "manifest.json", manifest)
        return manifest


def stage(root: Path, name: str, version: int, **parts: Any) -> Stage:
    """Return the stage `name` whose identity is `parts` (plain JSON values) and the code's `version` of it."""
    key = digest({"stage": name, "version": version, **parts})
    return Stage(name, key, root / name / key, parts, version)
