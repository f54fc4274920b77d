"""Picture files below a folder or in a zip, and how their names tell split and class."""

import json
import os
import zipfile
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from bdiff.data.sources import Source, close_before_fork, one_line, open_picture, sha256, stamp
from bdiff.errors import RequestError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
UNLABELLED = "unlabelled"
INDEX = "dataset.json"
#: folders that are splits, in any case; of several the first
TRAIN = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation")
MOST_CLASSES = 100_000  # that a dataset.json may number: ImageNet-21k has 21,841


@dataclass
class Files(Source):
    """Picture files under one root; the class is the parent folder, unless a dataset.json (edm's) says otherwise."""

    path: Path
    split: str

    def __str__(self) -> str:
        return str(self.path)

    @property
    @abstractmethod
    def entries(self) -> dict[str, tuple[int, ...]]:
        """Every file's name, relative and with forward slashes, and its size (and what else tells a change)."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the file `name`."""

    @cached_property
    def names(self) -> list[str]:
        names = sorted(name for name in self.entries if is_picture(name))
        if not names:
            raise RequestError(
                f"{self.path} holds no pictures: data.path takes a folder or zip of {', '.join(SUFFIXES)} files"
            )
        return pick_split(names, self.split)

    @cached_property
    def labelled(self) -> tuple[np.ndarray, tuple[str, ...]]:
        if self.index is not None:
            return self._edm_labels(self.index)
        folders = [class_of(name) for name in self.names]
        classes = tuple(sorted(set(folders)))
        number = {folder: label for label, folder in enumerate(classes)}
        return np.array([number[folder] for folder in folders], np.int64), classes

    @cached_property
    def index(self) -> str | None:
        """The name of edm's dataset.json, if there is one: the outermost; it names pictures from its own folder."""
        found = [name for name in self.entries if PurePosixPath(name).name == INDEX]
        return min(found, key=lambda name: (name.count("/"), name), default=None)

    def _edm_labels(self, index: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Read dataset.json: {"labels": [[name, class number], ...]}, or null where there are no labels."""
        try:
            pairs = json.loads(self.read(index))["labels"]
            if pairs is None:
                return np.zeros(len(self.names), np.int64), (UNLABELLED,)
            given = {index.removesuffix(INDEX) + name: int(label) for name, label in pairs}
            labels = np.array([given[name] for name in self.names], np.int64)
            if not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
                raise ValueError(f"class numbers run from {labels.min()} to {labels.max()}")
        except (ValueError, KeyError, TypeError, OverflowError, zipfile.BadZipFile) as error:
            raise RequestError(
                f"{self.path}: dataset.json does not give every picture a class number ({one_line(error)}): "
                "mend it, or remove it to use the folders' names"
            ) from error
        return labels, tuple(str(label) for label in range(labels.max() + 1))

    @cached_property
    def listing(self) -> str:
        labels = self.labelled[0].tolist()
        return sha256((n, self.entries[n][0], k) for n, k in zip(self.names, labels, strict=True))

    def open(self, row: int) -> Image.Image:
        return open_picture(self.read(self.names[row]))


def is_picture(name: str) -> bool:
    """Tell pictures from other files, and from the hidden copies that some systems put into archives."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return name.lower().endswith(SUFFIXES) and not hidden


def class_of(name: str) -> str:
    """Return the folder that names a picture's class: its own, or the one above it where that one is `images`.

    Tiny-ImageNet keeps train/<class>/images/.
    """
    folders = PurePosixPath(name).parent.parts
    if len(folders) > 1 and folders[-1] == "images" and folders[-2].lower() not in (*TRAIN, *HELD_OUT):
        folders = folders[:-1]
    return folders[-1] if folders else UNLABELLED


def pick_split(names: list[str], split: str) -> list[str]:
    """Return the names of `split` where a train/ stands beside a test/ or val/; all names where it does not."""
    root = os.path.commonpath(names) + "/" if len(names) > 1 else "/"
    start = len(root) if root != "/" else 0
    tops = {name[start:].split("/")[0] for name in names}
    named = {top.lower(): top for top in sorted(tops)}
    train = next((named[top] for top in TRAIN if top in named), None)
    held_out = next((named[top] for top in HELD_OUT if top in named), None)
    if split == "all" or held_out is None or train is None:
        return names
    return [name for name in names if name.startswith(f"{train if split == 'train' else held_out}/", start)]


def met(folder: str, seen: set[str]) -> bool:
    """Return whether the real path `folder` was seen, or holds one that was."""
    return folder in seen or any(other.startswith(folder + os.sep) for other in seen)


@dataclass
class Folder(Files):
    """A folder of pictures, with all that is below it."""

    @cached_property
    def entries(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        seen: set[str] = set()
        for folder, folders, files in os.walk(self.path, followlinks=True):
            seen.add(os.path.realpath(folder))
            # a link to a folder that was met, or to one above, would count its pictures again, or never end
            folders[:] = [name for name in sorted(folders) if not met(os.path.realpath(Path(folder, name)), seen)]
            for file in files:
                path = Path(folder, file)
                if path.exists():  # a dangling link is no file
                    facts = path.stat()
                    found[path.relative_to(self.path).as_posix()] = (facts.st_size, facts.st_mtime_ns)
        return found

    @property
    def identity(self) -> dict[str, Any]:
        relevant = sorted(entry for entry in self.entries.items() if is_picture(entry[0]) or entry[0].endswith(INDEX))
        return {"path": str(self.path.resolve()), "files": sha256(relevant)}

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


@dataclass
class Zip(Files):
    """A zip of pictures; members are read into memory and never written anywhere."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        return stamp(self.path)

    @cached_property
    def entries(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {entry.filename: (entry.file_size,) for entry in self._archive().infolist()}
        for name in found:
            if name.startswith("/") or ".." in name.split("/"):
                raise RequestError(f"{self.path} has a member {name!r}, outside of its folder: take it out of the zip")
        return found

    def read(self, name: str) -> bytes:
        return self._archive().read(name)

    def _archive(self) -> zipfile.ZipFile:
        return _archive(self.path, self.identity["mtime_ns"])


@lru_cache(maxsize=4)
def _archive(path: Path, changed: int) -> zipfile.ZipFile:
    """Return the zip at `path`, opened once per process and state of the file."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise RequestError(f"{path} is not a whole zip file ({one_line(error)}): copy or download it again") from error


close_before_fork(_archive)
