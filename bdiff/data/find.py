"""The source at a path: a zip, an LMDB, or a folder of pictures."""

from pathlib import Path

from bdiff.common.errors import RequestError
from bdiff.common.places import is_file, no_file
from bdiff.data.files import Folder, Zip
from bdiff.data.lmdbs import Lmdb
from bdiff.data.sources import NoSplit, Source

LSUN_SPLIT = {"train": "train", "test": "val"}


def existing(path: str | Path) -> Path:
    """Return `path`, a `data.path`, with ~ expanded; RequestError if it does not exist."""
    found = Path(path).expanduser()
    if not found.is_dir() and (why := no_file(found)):
        raise RequestError(f"data.path={path} {why}: looked at {found.absolute()}")
    return found


def find(
    path: str | Path,
    split: str,  # selects train/ or test/, or LSUN's train or val; without splits everything is used
    cache: Path,
    category: str = "*",  # of LSUN, where one folder may hold several
) -> Source:
    """Return the pictures at `path`. Raises RequestError if it is neither a zip, an LMDB nor a folder."""
    path = existing(path)
    if path.is_file():
        if path.suffix.lower() != ".zip":
            raise RequestError(f"data.path={path} is neither a folder nor a zip of pictures: unpack it, or zip it")
        return Zip(path, split)
    if is_file(path / "data.mdb"):
        return Lmdb(path, cache)
    if lmdbs := list_lmdbs(path):
        pattern = f"{category}_{LSUN_SPLIT.get(split, '*')}_lmdb"
        fitting = [folder for folder in lmdbs if folder.match(pattern)]
        if len(fitting) != 1:
            names = ", ".join(folder.name for folder in lmdbs)
            raise NoSplit(f"data.path={path} holds {names}, not exactly one {pattern}: give the path of one")
        return Lmdb(fitting[0], cache)
    return Folder(path, split)


def list_lmdbs(folder: Path) -> list[Path]:
    """Return the LMDBs in `folder`."""
    return sorted(file.parent for file in folder.glob("*/data.mdb") if is_file(file))
