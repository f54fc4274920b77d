"""A dataset: its name, its location and its reader. Each of conf/data is one `Dataset`, called with its settings.

Torch-free until pictures are loaded, so that `bdiff data` can list all datasets at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bdiff.common.errors import RequestError
from bdiff.config.rules import at_least, one_of
from bdiff.data.find import find
from bdiff.data.request import PixelRequest
from bdiff.data.sources import Source

if TYPE_CHECKING:
    from bdiff.data.base import Images


@dataclass(frozen=True)
class Home:
    """Where a dataset is looked for without `data.path`, and where to get it."""

    places: tuple[str, ...]  # below the cache, the first that exists; empty for data that come with a package
    origin: str
    downloads: str | None = None  # the URL it is downloaded from automatically

    def place(self, cache: Path) -> Path | None:
        """Return where below `cache` the data are, or None."""
        return next((path for place in self.places if (path := cache / place).exists()), None)

    def hint(self, cache: Path) -> str:
        """Return what to do about missing data."""
        return f"get it from {self.origin}; set data.path= to it, or put it at {cache / self.places[-1]}"


@dataclass(frozen=True)
class Dataset:
    """A dataset of conf/data, whose yaml names it and sets the arguments of `__call__`."""

    name: str  # as in conf/data
    home: Home
    #: (path, split, cache) -> the source of a format of its own; None for all others, which `find` reads
    official: Callable[[str | None, str, Path], Source | None] | None = None
    inside: tuple[str, ...] = ()  # subfolders of `data.path` to use instead of it, if they exist
    category: str = "*"  # of LSUN, where one folder may hold several
    sizes: Mapping[str, int] = field(default_factory=dict)  # images in each official split
    classes: int = 1  # in all of these

    def source(self, path: str | None, split: str, cache: Path) -> Source:
        """Return the pictures at `path`, or at home if it is None. Raises RequestError if they are not found."""
        if self.official and (found := self.official(path, split, cache)):
            return found
        return find(self._at_home(cache) if path is None else self._within(path), split, cache, self.category)

    def _at_home(self, cache: Path) -> Path:
        if place := self.home.place(cache):
            return place
        missing = self.home.places[-1]
        raise RequestError(f"{missing} was not found, and bdiff does not download it: {self.home.hint(cache)}")

    def _within(self, path: str) -> str | Path:
        folders = (Path(path).expanduser() / folder for folder in self.inside)
        return next((folder for folder in folders if folder.is_dir()), path)

    def __call__(
        self,
        *,
        cache: Path,
        seed: int,
        memory: float,  # GiB that the pixels may use
        size: Annotated[int, at_least(8), "pixels: pictures are cropped to their central square and resized"],
        channels: Annotated[int, one_of(1, 3), "1 grey, 3 RGB"],
        split: Annotated[str, one_of("train", "test", "all"), "train, test or all"],
        path: Annotated[str | None, "pictures: a folder or zip, or the dataset's archive; null looks in the cache"],
        limit: Annotated[int | None, at_least(2), "images: a subset of this size, drawn by the seed; null takes all"],
        flip: Annotated[bool, "mirror half of the images in training"],
    ) -> "Images":
        """Return the dataset's images. Raises RequestError if they are not found, or one cannot be read."""
        from bdiff.data.load import load

        request = PixelRequest(size=size, channels=channels, split=split, limit=limit, seed=seed)
        return load(self.name, self.source(path, split, cache), request, flip=flip, cache=cache, memory=memory)
