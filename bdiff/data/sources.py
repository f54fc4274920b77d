"""Sources of pictures, listed and read on demand: the interface of all sources, and arrays as the simplest one.

Torch-free, as are files.py and lmdbs.py: requests are checked with them before torch is imported. Sources can be
pickled, since they hold only paths and listings; open files are cached outside of them, per process.
"""

import hashlib
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bdiff.common.errors import RequestError
from bdiff.pictures.draw import FORMATS
from bdiff.pictures.modes import flat


class NoSplit(RequestError):
    """The data have no such split, or fewer images of it than are asked for."""


def reason(error: BaseException) -> str:
    """Return an error's message on one line, without memory addresses; its type's name if it has none."""
    text = re.sub(r" <[^<>]* at 0x[0-9a-fA-F]+>", "", str(error))
    return " ".join(text.split()) or type(error).__name__


def sha256(parts: Iterable[Any]) -> str:
    """Return 16 hex digits of the sha256 over `parts`, one after the other, as text."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part}\n".encode())
    return total.hexdigest()[:16]


def file_state(path: Path) -> dict[str, Any]:
    """Return what reveals a change of the file at `path`: resolved path, size and time."""
    facts = path.stat()
    return {"path": str(path.resolve()), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def open_picture(data: bytes) -> Image.Image:
    """Return the picture in a file's bytes, not yet decoded. Raises OSError if it is not in one of `FORMATS`."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def close_before_fork(opened: Any) -> None:
    """Clear the lru_cache `opened` before this process forks: DataLoader workers must open files of their own."""
    os.register_at_fork(before=opened.cache_clear)


class Source(ABC):
    """An ordered list of labelled pictures."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """The key of a cache: plain JSON that changes if the pictures may have, found without reading them."""

    @property
    @abstractmethod
    def listing(self) -> str:
        """16 hex digits over names, sizes and labels, independent of the pictures' path."""

    @property
    @abstractmethod
    def names(self) -> Sequence[Any] | np.ndarray:
        """The pictures' names; RequestError if there is none."""

    @property
    @abstractmethod
    def labelled(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Labels, (N,) int64, and the classes' names."""

    @abstractmethod
    def open(self, row: int) -> Image.Image:
        """Return the picture at `row`."""

    @property
    def listed(self) -> bool:
        """Whether `names` can be had at once: without a download, and without anything written."""
        return True

    @property
    def left_out(self) -> str:
        """Counts of the files that are not read, such as "3 .tif, 1 .txt"; "" if there are none."""
        return ""

    def probe(self) -> None:
        """Raise RequestError if there is nothing to read, as far as a quick look shows."""
        assert len(self.names)

    def pixels(self, row: int, size: int, channels: int) -> np.ndarray:
        """Return the picture at `row` as uint8 (C,H,W): cropped to its central square, resized, grey or RGB."""
        try:
            with self.open(row) as picture:
                square = np.asarray(central_square(flat(picture), size, "L" if channels == 1 else "RGB"))
        # For a broken file Pillow, zipfile and their codecs may raise nearly any error.
        except Exception as error:
            name = self.names[row]
            shown = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
            shown = shown if shown.isprintable() else repr(shown)  # names in an archive can be anything
            raise RequestError(
                f"{self}: picture {shown} cannot be read ({reason(error)}): replace or remove it"
            ) from error
        return square.reshape(size, size, channels).transpose(2, 0, 1)


def central_square(picture: Image.Image, size: int, mode: str) -> Image.Image:
    """Return the central square of `picture`, `size` pixels wide, in `mode`; unchanged if it is one already."""
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size == (size, size):
        return picture
    width, height = picture.size
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    # Cropped first: with resize(box=...) the filter would reach outside of the square.
    square = picture.crop((left, upper, left + side, upper + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)


#: pixels (N,H,W) or (N,H,W,3) uint8, labels (N,) and the classes' names
Content = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


@dataclass
class Arrays(Source):
    """Pictures that a function reads all at once."""

    key: dict[str, Any]
    read: Callable[[], Content]

    def __str__(self) -> str:
        return str(self.key)

    @property
    def identity(self) -> dict[str, Any]:
        return self.key

    @cached_property
    def content(self) -> Content:
        return self.read()

    @cached_property
    def listing(self) -> str:
        return sha256([hashlib.sha256(self.content[0].tobytes()).hexdigest(), self.content[1].tolist()])

    @property
    def listed(self) -> bool:
        return False  # reading may download

    @property
    def names(self) -> Sequence[int]:
        return range(len(self.content[0]))

    @property
    def labelled(self) -> tuple[np.ndarray, tuple[str, ...]]:
        return self.content[1].astype(np.int64), self.content[2]

    def open(self, row: int) -> Image.Image:
        return Image.fromarray(self.content[0][row])


def bundled(name: str, read: Callable[[str], Content]) -> Callable[[str | None, str, Path], Source | None]:
    """Return the finder of a `Dataset` that comes with a package, whose splits `read` returns."""

    def official(path: str | None, split: str, cache: Path) -> Source | None:
        return Arrays({"official": name}, partial(read, split)) if path is None else None

    return official
