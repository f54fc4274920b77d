"""Where artifacts live: config -> key -> folder, with atomic writes, locks and manifests.

A stage's folder is `<outputs>/<stage>/<key>/`. It is finished if and only if it holds `manifest.json`, which is
written last; anything else in it is work in progress that a restarted run resumes.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import filelock

from bdiff.store.integrity import fault

log = logging.getLogger(__name__)
T = TypeVar("T")

UMASK = os.umask(0o077)
os.umask(UMASK)  # it can only be read by being set
PERMISSIONS = 0o666 & ~UMASK  # of files that a group shares if its members' umask says so

#: how the names of scratch folders begin, in which files are written before they have their place
SCRATCH = ".tmp-"

#: files of a stage that nothing is computed from, so that the stage is complete without them
RECORDS = ("manifest.json", "seconds.json", "threads.json", "modes.json", "history.jsonl")

#: folders of a growing stage that only a killed run needs again: a training's state, and answers batch by batch
GROWING = ("state", "batches")


def digest(value: Any) -> str:
    """Return 16 hex digits of the sha256 over `value` as canonical JSON: the key of whatever it describes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` (file or folder), on error it is removed.

    An existing folder at `path` is replaced. The result is flushed to disk: a power loss leaves either the old or the
    new version, never a partial one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own, so that the file keeps its name and suffix, which some writers check.
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=path.parent))
    try:
        yield scratch / path.name
        for written in [scratch / path.name, *(scratch / path.name).rglob("*")]:
            apply_umask(written)
            flush(written)
        if path.is_dir():
            path.rename(scratch / "replaced")
        (scratch / path.name).replace(path)
        flush(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def apply_umask(path: Path) -> None:
    """Set a file's permissions from the user's umask, which safetensors and tempfile ignore."""
    if path.is_file():
        with suppress(OSError):  # some drives do not support permissions
            path.chmod(path.stat().st_mode | PERMISSIONS)


def flush(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some network drives do not support fsync of folders
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as readable JSON; a nan or inf in it raises ValueError."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what `write_json` wrote. Raises ValueError, which names the file, if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged, {error}") from error


def recall(path: Path, default: T) -> T:
    """Return what `write_json` wrote; `default` if it is missing or, with a warning, not of the default's type."""
    if not path.is_file():
        return default
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        log.warning("%s: ignored", error)
        return default
    if type(found) is not type(default):
        log.warning("%s does not hold a %s: ignored", path, type(default).__name__)
        return default
    return found


def whole(path: Path) -> bool:
    """Return whether a file exists and is intact; logs a warning if it is damaged, as callers then rebuild it."""
    if not path.exists():
        return False
    why = fault(path)
    if why:
        log.warning("%s is damaged and will be rebuilt (%s)", path, why)
    return not why


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for another process that holds it (the system frees a dead one's)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(path, mode=PERMISSIONS)
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        log.info("waiting for another process that is building %s", path.with_suffix("").name)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def claim(path: Path) -> IO[str] | None:
    """Open `path` for appending, locked for this process and its children; None if another process holds it.

    The system releases it when all of them have exited. On network drives without locks it is not exclusive.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        log.debug("%s cannot be locked (%s)", path, error)
    return file


def content(*tensors: Any) -> str:
    """Return 16 hex digits of the sha256 over tensors' shapes and values: the key of pictures, whatever their path."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(repr(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`; the caller must hold its lock."""
    for scratch in list(folder.rglob(f"{SCRATCH}*")):
        shutil.rmtree(scratch, ignore_errors=True)


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder` except those that are being written, whose folders may vanish at any time.

    Path.rglob raises FileNotFoundError for a folder that vanishes before it is opened; os.walk leaves it out.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(SCRATCH)]
        yield from (Path(place, name) for name in names)


class Clock:
    """Seconds of work in a stage's folder over all attempts, saved periodically: a kill loses the last few.

    `writes` is True in the one process that writes there.
    """

    EVERY = 5.0  # seconds

    def __init__(self, folder: Path, writes: bool):
        self.path, self.writes = folder / "seconds.json", writes
        self.before = recall(self.path, 0.0)
        self.began, self.over = time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self.tick, daemon=True)

    @property
    def seconds(self) -> float:
        """The total so far."""
        return self.before + time.monotonic() - self.began

    def tick(self) -> None:
        """Save the total from time to time."""
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
    """One artifact, finished or in progress: what identifies it (`parts`), and its folder."""

    name: str
    key: str
    folder: Path
    parts: dict[str, Any]
    version: int

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What was recorded when the stage finished; None if it has not or, with a warning, if it is damaged."""
        path = self.folder / "manifest.json"
        if not path.exists():
            return None
        found = recall(path, dict[str, Any]())
        why = self.damage(found)
        if why:
            log.warning("%s: rebuilt, since %s", self.folder, why)
        return None if why else found

    def damage(self, manifest: dict[str, Any]) -> str | None:
        """Return what is wrong with a manifest or with the files that it lists; None if nothing is."""
        if manifest.get("key") != self.key or not {"seconds", "finished"} <= {*manifest}:
            return "manifest.json is damaged or belongs to another stage"
        for name, size in manifest.get("files", {}).items():  # missing in manifests of earlier versions
            path = self.folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} of {size} bytes"
            if why := fault(path):
                return f"{name} is damaged ({why})"
        return None

    def finish(self, seconds: float, **facts: Any) -> dict[str, Any]:
        """Record that the stage is complete, after `seconds` of work, with facts that later stages read."""
        manifest = {
            "stage": self.name,
            "key": self.key,
            "version": self.version,
            "parts": self.parts,
            "seconds": round(seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "files": self.files(),
            **facts,
        }
        write_json(self.folder / "manifest.json", manifest)
        return manifest

    def files(self) -> dict[str, int]:
        """Return the sizes of the stage's result files, by path in its folder; logs and what grew are excluded."""
        found = {path.relative_to(self.folder): path.stat().st_size for path in walk(self.folder) if path.is_file()}
        return {str(name): found[name] for name in sorted(found) if name.parts[0] not in RECORDS + GROWING}


def named(value: Any) -> Any:
    """Return nested containers with bdiff's own parts identified by name only, so that they can be moved."""
    if isinstance(value, dict):
        return {key: part_name(one) if key == "_target_" else named(one) for key, one in value.items()}
    return [named(one) for one in value] if isinstance(value, list | tuple) else value


def part_name(target: Any) -> Any:
    """Return the name of a part of bdiff; the full path of a part of another package."""
    return target.rpartition(".")[2] if isinstance(target, str) and target.startswith("bdiff.") else target


def stage(root: Path, name: str, version: int, **parts: Any) -> Stage:
    """Return the stage `name` whose identity is `parts` (plain JSON values) and the code's `version` of it."""
    key = digest({"stage": name, "version": version, **named(parts)})
    return Stage(name, key, root / name / key, parts, version)
