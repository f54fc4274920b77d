"""Which source a path means: a zip, an LMDB, or a folder of pictures."""

from pathlib import Path

from bdiff.data.files import Folder, Zip
from bdiff.data.lmdbs import Lmdb
from bdiff.data.sources import Source
from bdiff.errors import RequestError

LSUN_SPLIT = {"train": "train", "test": "val"}


def existing(path: str | Path) -> Path:
    """Return `path` with ~ expanded; RequestError if nothing is there."""
    found = Path(path).expanduser()
    if not found.exists():
        raise RequestError(f"data.path={path} does not exist: looked at {found.absolute()}")
    return found


def find(
    path: str | Path,
    split: str,  # picks among train/ and test/, or LSUN's train and val; otherwise the path is taken whole
    cache: Path,
    category: str = "*",  # of LSUN, where several may lie in one folder
) -> Source:
    """Return the pictures at `path`. Raises RequestError if it is neither a zip, an LMDB nor a folder."""
    path = existing(path)
    if path.is_file():
        if path.suffix.lower() != ".zip":
            raise RequestError(f"data.path={path} is neither a folder nor a zip of pictures: unpack it, or zip it")
        return Zip(path, split)
    if (path / "data.mdb").exists():
        return Lmdb(path, cache)
    if lmdbs := list_lmdbs(path):
        wanted = f"{category}_{LSUN_SPLIT.get(split, '*')}_lmdb"
        fitting = [folder for folder in lmdbs if folder.match(wanted)]
        if len(fitting) != 1:
            names = ", ".join(folder.name for folder in lmdbs)
            raise RequestError(f"data.path={path} holds {names}, of which not just one is {wanted}: name one of them")
        return Lmdb(fitting[0], cache)
    return Folder(path, split)


def list_lmdbs(folder: Path) -> list[Path]:
    """Return the LMDBs that lie in `folder`."""
    return sorted(file.parent for file in folder.glob("*/data.mdb"))


def local(
    name: str,
    path: str | None,
    split: str,
    cache: Path,
    origin: str,  # where a person can get the data
    category: str = "*",
) -> Source:
    """Return the pictures at `path`, or at <cache>/<name> if it is None; RequestError if they are nowhere."""
    home = cache / name
    if path is None and not home.exists():
        raise RequestError(
            f"{name} is not downloaded by bdiff and was not found at {home}: get it from {origin} "
            "and name the folder or zip with data.path="
        )
    return find(home if path is None else path, split, cache, category)
