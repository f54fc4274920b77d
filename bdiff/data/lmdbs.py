"""LMDBs of encoded pictures, as LSUN is published."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from PIL import Image

from bdiff.common.errors import RequestError
from bdiff.data.sources import Source, close_before_fork, file_state, open_picture, reason, sha256
from bdiff.store import artifacts

#: keys under which LMDBs keep metadata
ABOUT = (b"length", b"__len__", b"__keys__", b"num-samples", b"num_samples", b"data_keys")

#: the first bytes of picture files: JPEG, PNG, WebP and BMP
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")
SMALL = 1024  # bytes: LMDB keeps such a value in the page of its key, so that reading it is free
AGAIN = "copy or download it again"
PROBED = 100  # leading entries, one of which must be a picture


@dataclass
class Lmdb(Source):
    """An LMDB of encoded pictures, as LSUN's: the folder that holds data.mdb, named <class>_<split>_lmdb."""

    path: Path
    cache: Path  # where the list of keys is cached: listing millions takes minutes

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return file_state(self.path / "data.mdb")

    @property
    def _kept(self) -> Path:
        """Where the list of keys is cached."""
        return artifacts.stage(self.cache, "keys", 2, source=self.identity).folder / "keys.npy"

    @property
    def listed(self) -> bool:
        return self._kept.exists()

    @cached_property
    def names(self) -> np.ndarray:
        self.probe()
        file = self._kept
        if not file.exists():
            with artifacts.lock(file.parent.with_suffix(".lock")):
                if not file.exists():  # unless another process has listed them meanwhile
                    keys = self._keys()
                    with artifacts.atomic(file) as scratch:
                        np.save(scratch, np.array(keys, "S"))
        return np.load(file)

    @property
    def labelled(self) -> tuple[np.ndarray, tuple[str, ...]]:
        name = self.path.resolve().name.removesuffix("_lmdb")
        return np.zeros(len(self.names), np.int64), (name.removesuffix("_train").removesuffix("_val"),)

    @cached_property
    def listing(self) -> str:
        return sha256([hashlib.sha256(self.names.tobytes()).hexdigest(), self.identity["bytes"]])

    @property
    def left_out(self) -> str:
        count = self._environment().stat()["entries"] - len(self.names)
        return f"{count} entries" if count else ""

    def open(self, row: int) -> Image.Image:
        key = bytes(self.names[row])
        with self._environment().begin() as transaction:
            data = transaction.get(key) if key else None
            if data is None:  # numpy dropped the trailing zero bytes of the key
                data = transaction.get(key.ljust(self.names.itemsize, b"\0"), b"")
            return open_picture(data)

    def probe(self) -> None:
        if self._environment().stat()["entries"] == 0:
            raise RequestError(f"{self.path} holds no pictures: its data.mdb is empty")
        with damage_reported(self.path), self._environment().begin(buffers=True) as transaction:
            values = (value for key, value in transaction.cursor() if is_picture(bytes(key), value))
            if not any(bytes(value[:12]).startswith(MAGIC) for value in islice(values, PROBED)):
                raise RequestError(
                    f"{self.path} holds no pictures: its values are not JPEG, PNG, WebP or BMP files, as LSUN's are"
                )

    def _keys(self) -> list[bytes]:
        """Return the pictures' keys, in order. Raises RequestError for keys that cannot be kept."""
        with damage_reported(self.path), self._environment().begin(buffers=True) as transaction:
            keys = [bytes(key) for key, value in transaction.cursor() if is_picture(bytes(key), value)]
        if any(key.endswith(b"\0") for key in keys) and len({len(key) for key in keys}) > 1:
            raise RequestError(
                f"{self.path} has keys of several lengths that end in a zero byte: write it again with others"
            )
        return keys

    def _environment(self) -> lmdb.Environment:
        return _environment(self.path)


def is_picture(key: bytes, value: memoryview) -> bool:
    """Return whether an entry is a picture, not metadata: by its key and, for small values, by its first bytes."""
    return key not in ABOUT and (len(value) > SMALL or bytes(value[:12]).startswith(MAGIC))


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Raise RequestError if LMDB reports that `path` is damaged."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise RequestError(f"{path} is not an intact LMDB ({reason(error)}): {AGAIN}") from error


@lru_cache(maxsize=4)
def _environment(path: Path) -> lmdb.Environment:
    """Return the LMDB in the folder `path`, opened once per process (LMDB forbids a second time)."""
    with damage_reported(path):
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
    # Reading missing pages through the memory map would end the process with SIGBUS.
    if (path / "data.mdb").stat().st_size < (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]:
        environment.close()
        raise RequestError(f"{path} is not an intact LMDB (data.mdb is truncated): {AGAIN}")
    return environment


close_before_fork(_environment)
