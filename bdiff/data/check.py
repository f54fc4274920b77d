"""Quick checks of `data.path` without torch: a missing, empty or broken folder or archive."""

import gzip
import zlib
from pathlib import Path

from omegaconf import DictConfig

from bdiff.common.errors import RequestError
from bdiff.data import cifar
from bdiff.data.find import existing, find, list_lmdbs
from bdiff.data.lmdbs import Lmdb
from bdiff.data.sources import reason

READ_AT_MOST = 200 * 2**20  # bytes of an archive that are read to its end: CIFAR's are 170 MB


def path_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the `data.path` of a request."""
    return problems(config.data.path)


def problems(path: str | None) -> list[str]:
    """Return what is wrong with the pictures at `path`, one line each, with what to do."""
    if path is None:
        return []
    try:
        examine(existing(path))
    except RequestError as problem:
        return list(problem.problems)
    except OSError as error:
        return [f"data.path={path} cannot be read ({reason(error)})"]
    return []


def examine(path: Path) -> None:
    """Raise RequestError if `path` is found to be unusable."""
    if official := next(filter(None, (cifar.official(name, path) for name in cifar.OFFICIAL)), None):
        if official.is_file():
            examine_gzip(official)
        return
    if path.is_dir() and (lmdbs := list_lmdbs(path)):
        for folder in lmdbs:
            Lmdb(folder, path).probe()  # finds no keys, so the cache is not used
        return
    find(path, "all", path).probe()


def examine_gzip(path: Path) -> None:
    """Raise RequestError if the gzip at `path` is cut off or damaged."""
    try:
        with gzip.open(path) as archive:
            while path.stat().st_size <= READ_AT_MOST and archive.read(2**22):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise RequestError(f"{path} is not a complete tar.gz ({reason(error)}): download it again") from error


CHECKS = [(("data.path",), path_problems)]
