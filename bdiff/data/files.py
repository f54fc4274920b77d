"""Picture files below a folder or in a zip, and how split and class are derived from their names."""

import json
import os
import zipfile
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from bdiff.common.errors import RequestError
from bdiff.common.places import is_file
from bdiff.data.layout import CELEBA_MASKS, Layout, annotations, folders_of, is_hidden, parts_of
from bdiff.data.sources import Source, close_before_fork, file_state, open_picture, reason, sha256

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")
UNLABELLED = "unlabelled"
INDEX = "dataset.json"  # edm's: {"labels": [[name, class number], ...]}, or null where there are no labels
CLASSES = "val_annotations.txt"  # Tiny-ImageNet's, beside images/: a name, a class and a box a line, between tabs
WINDOWS = 0  # the operating system that created a zip's member, as zip files encode it
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
        """Every file's name, relative and with forward slashes, and its size (and more that reveals a change)."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the file `name`."""

    @cached_property
    def layout(self) -> Layout:
        """Which folders are splits and classes. RequestError if there are no pictures, or annotations among them."""
        names = sorted(name for name in self.entries if is_picture(name))
        if not names:
            raise RequestError(self._no_pictures())
        if drawn := annotations(names):
            raise RequestError(
                f"{self.path} holds pictures and annotations or copies of them, in {drawn}: give the pictures' own "
                f"folder as data.path, or move {drawn} elsewhere, or rename it if it is a class"
            )
        layout = Layout(names, self._noted())
        if pair := layout.doubtful:
            raise RequestError(
                f"{self.path}: {pair[0]!r} and {pair[1]!r} are called as splits, but lie or are named differently: "
                "arrange all pictures as train/<class> and test/<class>, or rename the two if they are classes"
            )
        return layout

    def _no_pictures(self) -> str:
        """Return the problem that there are no pictures, and what is there instead."""
        if any(parts_of(name)[-1:] == ["data.mdb"] for name in self.entries):
            return f"{self.path} holds an LMDB and no pictures: unpack it, and set data.path to the folder of data.mdb"
        instead = f" (but {self._others})" if self._others else ""
        return f"{self.path} holds no pictures{instead}: data.path takes a folder or zip of {', '.join(SUFFIXES)} files"

    @cached_property
    def names(self) -> list[str]:
        return self.layout.names(self.split)

    @property
    def left_out(self) -> str:
        beside = self.layout.beside if self.split != "all" else 0
        counts = {"pictures in no split": beside, "broken links or pipes": len(self.unopened)}
        return ", ".join(
            [*(f"{count} {what}" for what, count in counts.items() if count), *filter(None, [self._others])]
        )

    @property
    def unopened(self) -> list[str]:
        """The names of pictures and class files that cannot be opened."""
        return []

    @cached_property
    def _others(self) -> str:
        """The files that are not pictures, counted by kind."""
        kinds = Counter(kind_of(name) for name in self.entries if not is_read(name))
        del kinds[""]
        return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))

    @cached_property
    def labelled(self) -> tuple[np.ndarray, tuple[str, ...]]:
        if indices := self._named(INDEX):
            return self._edm_labels(indices)
        found = [self.layout.class_of(name) or UNLABELLED for name in self.names]
        trained = {folder or UNLABELLED for folder in self.layout.classes}
        if not trained & set(found):
            trained = set()
        classes = (*sorted(trained), *sorted(set(found) - trained))  # all splits number the classes alike
        number = {folder: label for label, folder in enumerate(classes)}
        return np.array([number[folder] for folder in found], np.int64), classes

    def _named(self, file: str) -> list[str]:
        """Return the outermost files called `file`; of several splits each may have its own."""
        found = sorted(name for name in self.entries if parts_of(name)[-1:] == [file] and not is_hidden(name))
        top = min((name.count("/") for name in found), default=0)
        return [name for name in found if name.count("/") == top]

    def _edm_labels(self, indices: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        """Read each dataset.json, which names pictures from its own folder."""
        try:
            listed = {index.removesuffix(INDEX): json.loads(self.read(index))["labels"] for index in indices}
            if all(pairs is None for pairs in listed.values()):
                return np.zeros(len(self.names), np.int64), (UNLABELLED,)
            given = {root + name: int(label) for root, pairs in listed.items() for name, label in pairs}
            labels = np.array([given[name] for name in self.names], np.int64)
            least, most = min(given.values()), max(given.values())
            if not 0 <= least <= most < MOST_CLASSES:
                raise ValueError(f"class numbers run from {least} to {most}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, zipfile.BadZipFile) as error:
            raise RequestError(
                f"{self.path}: dataset.json does not give every picture a class number ({reason(error)}): "
                "fix it, or remove it to use the folders' names"
            ) from error
        return labels, tuple(str(label) for label in range(most + 1))

    def _noted(self) -> dict[str, str]:
        """Return the classes that Tiny-ImageNet's annotations give to pictures."""
        try:
            lines = {file: self.read(file).decode().splitlines() for file in self._named(CLASSES)}
            pairs = [(file, line.split("\t")) for file, found in lines.items() for line in found if line.strip()]
            return {f"{file.removesuffix(CLASSES)}images/{fields[0]}": fields[1] for file, fields in pairs}
        except (ValueError, IndexError, zipfile.BadZipFile) as error:
            raise RequestError(
                f"{self.path}: {CLASSES} does not have a picture's name, a tab and its class on every line: fix it"
            ) from error

    @cached_property
    def listing(self) -> str:
        labels = self.labelled[0].tolist()
        return sha256((n, self.entries[n][0], k) for n, k in zip(self.names, labels, strict=True))

    def open(self, row: int) -> Image.Image:
        return open_picture(self.read(self.names[row]))


def is_picture(name: str) -> bool:
    """Return whether a file is a picture, not a mask or a hidden copy that some systems put into archives."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(name) and CELEBA_MASKS not in folders_of(name)


def is_index(name: str) -> bool:
    """Return whether a file lists the classes of pictures."""
    return parts_of(name)[-1:] in ([INDEX], [CLASSES])


def is_read(name: str) -> bool:
    """Return whether a file is read."""
    return is_picture(name) or is_index(name)


def kind_of(name: str) -> str:
    """Return what a skipped file is counted as: by its folder or suffix; "" if it is not worth a mention."""
    if name.endswith("/") or is_hidden(name):
        return ""
    if CELEBA_MASKS in folders_of(name):
        return f"in {CELEBA_MASKS}"
    return PurePosixPath(name).suffix.lower() or "without a suffix"


def walk(root: Path) -> Iterator[Path]:
    """Yield every file below `root`, following links, but no folder twice and no parent of `root`.

    Folders come before the targets of links, so that pictures get the names of their own folders.
    """
    real = Path(os.path.realpath(root))
    seen = {str(folder) for folder in real.parents}
    waiting = deque([str(root)])
    while waiting:
        for folder, folders, files in os.walk(waiting.popleft()):
            place = os.path.realpath(folder)
            if place in seen:
                folders.clear()
                continue
            seen.add(place)
            folders.sort()
            waiting.extend(str(path) for name in folders if (path := Path(folder, name)).is_symlink())
            yield from (Path(folder, file) for file in files)


@dataclass
class Folder(Files):
    """A folder of pictures, with all that is below it."""

    @cached_property
    def entries(self) -> dict[str, tuple[int, ...]]:
        files = ((path, path.stat()) for path in walk(self.path) if is_file(path))
        return {path.relative_to(self.path).as_posix(): (facts.st_size, facts.st_mtime_ns) for path, facts in files}

    @cached_property
    def unopened(self) -> list[str]:
        return [path.name for path in walk(self.path) if is_read(path.name) and not is_file(path)]

    @property
    def identity(self) -> dict[str, Any]:
        relevant = sorted(entry for entry in self.entries.items() if is_read(entry[0]))
        return {"path": str(self.path.resolve()), "files": sha256(relevant)}

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


@dataclass
class Zip(Files):
    """A zip of pictures; members are read into memory and never written anywhere."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        return file_state(self.path)

    @cached_property
    def entries(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {name: (entry.file_size,) for name, entry in self._members.items()}
        for name in found:
            if name.startswith("/") or ".." in name.split("/"):
                raise RequestError(f"{self.path} has a member {name!r}, outside of its folder: remove it from the zip")
        return found

    def read(self, name: str) -> bytes:
        return self._archive().read(self._members[name].filename)

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """The members by name; backslashes separate folders in zips from Windows, and are part of names elsewhere."""
        return {name_of(member): member for member in self._archive().infolist()}

    def _archive(self) -> zipfile.ZipFile:
        return _archive(self.path, self.identity["mtime_ns"])


def name_of(member: zipfile.ZipInfo) -> str:
    """Return the name of a zip's member with forward slashes."""
    return member.filename.replace("\\", "/") if member.create_system == WINDOWS else member.filename


@lru_cache(maxsize=4)
def _archive(path: Path, changed: int) -> zipfile.ZipFile:
    """Return the zip at `path`, opened once per process and state of the file."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise RequestError(f"{path} is not a complete zip file ({reason(error)}): copy or download it again") from error


close_before_fork(_archive)
