"""LMDBs of encoded pictures, as LSUN is published."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from PIL import Image

from bdiff import store
from bdiff.data.sources import Source, close_before_fork, one_line, open_picture, sha256, stamp
from bdiff.errors import RequestError

#: keys under which LMDBs keep facts about themselves beside their pictures
ABOUT = (b"length", b"__len__", b"__keys__", b"num-samples", b"num_samples", b"data_keys")


@dataclass
class Lmdb(Source):
    """An LMDB of encoded pictures, as LSUN's: the folder that holds data.mdb, named <class>_<split>_lmdb."""

    path: Path
    cache: Path  # where the list of keys is kept: millions of them take minutes to find

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return stamp(self.path / "data.mdb")

    @cached_property
    def names(self) -> np.ndarray:
        self.probe()
        made = store.stage(self.cache, "keys", 2, source=self.identity)
        file = made.folder / "keys.npy"
        with store.lock(made.folder.with_suffix(".lock")):
            if not file.exists():
                with self._environment().begin() as transaction, store.atomic(file) as scratch:
                    keys = [key for key in transaction.cursor().iternext(values=False) if key not in ABOUT]
                    if any(key.endswith(b"\0") for key in keys):  # numpy drops them, and other keys would be read
                        raise RequestError(f"{self.path} has keys that end in a zero byte: write it again with others")
                    np.save(scratch, np.array(keys, "S"))
        return np.load(file)

    @property
    def labelled(self) -> tuple[np.ndarray, tuple[str, ...]]:
        name = self.path.resolve().name.removesuffix("_lmdb")
        return np.zeros(len(self.names), np.int64), (name.removesuffix("_train").removesuffix("_val"),)

    @cached_property
    def listing(self) -> str:
        return sha256([hashlib.sha256(self.names.tobytes()).hexdigest(), self.identity["bytes"]])

    def open(self, row: int) -> Image.Image:
        with self._environment().begin() as transaction:
            return open_picture(transaction.get(bytes(self.names[row]), b""))

    def probe(self) -> None:
        if self._environment().stat()["entries"] == 0:
            raise RequestError(f"{self.path} holds no pictures: its data.mdb is empty")

    def _environment(self) -> lmdb.Environment:
        return _environment(self.path)


@lru_cache(maxsize=4)
def _environment(path: Path) -> lmdb.Environment:
    """Return the LMDB in the folder `path`, opened once per process (LMDB forbids a second time)."""
    mend = "copy or download it again"
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
    except (lmdb.Error, OSError) as error:
        raise RequestError(f"{path} is not a whole LMDB ({one_line(error)}): {mend}") from error
    # Pages missing from the file would be read through the memory map, and end the process with SIGBUS.
    if (path / "data.mdb").stat().st_size < (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]:
        environment.close()
        raise RequestError(f"{path} is not a whole LMDB (data.mdb is truncated): {mend}")
    return environment


close_before_fork(_environment)
