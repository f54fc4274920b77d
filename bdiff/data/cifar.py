"""The official CIFAR archives, read and checked by torchvision; imports neither it nor torch until they are read."""

import http.client
import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from bdiff.common.errors import RequestError
from bdiff.data.dataset import Home
from bdiff.data.find import existing
from bdiff.data.sources import Arrays, Content, Source, file_state, reason
from bdiff.store import artifacts

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
#: per torchvision class: the archive, the folder it unpacks to, and files that identify that folder under any name
OFFICIAL = {
    "CIFAR10": ("cifar-10-python.tar.gz", "cifar-10-batches-py", ("batches.meta", "test_batch")),
    "CIFAR100": ("cifar-100-python.tar.gz", "cifar-100-python", ("meta", "test")),
}
TRAIN = {"train": (True,), "test": (False,), "all": (True, False)}


def home(dataset: str) -> Home:
    """Return where torchvision's `dataset` is once it is downloaded."""
    file, folder, _ = OFFICIAL[dataset]
    inside = dataset.lower()
    return Home((f"{inside}/{folder}", f"{inside}/{file}"), PAGE, downloads=PAGE.replace("cifar.html", file))


def archive(dataset: str, path: str | None, split: str, cache: Path) -> Source | None:
    """Return torchvision's `dataset` (CIFAR10, CIFAR100), downloaded or at `path`; None if that is something else."""
    if path is None:  # checksums fix its content, so it needs no other identity
        return Arrays({"official": dataset}, partial(read, dataset, None, split, cache))
    found = official(dataset, existing(path))
    if found is None:
        return None
    inside = [found] if found.is_file() else sorted(found.iterdir())
    key = {"official": dataset, "files": [file_state(part) for part in inside]}
    return Arrays(key, partial(read, dataset, found, split, cache))


def official(dataset: str, path: Path) -> Path | None:
    """Return the archive or the unpacked folder that `path` is or holds; None if it is something else."""
    file, folder, marks = OFFICIAL[dataset]
    if path.is_file():
        return path if path.name.lower().endswith((".tar.gz", ".tgz")) else None
    for unpacked in (path, path / folder):
        if all((unpacked / mark).is_file() for mark in marks):
            return unpacked
    return path / file if (path / file).is_file() else None


def read(
    dataset: str,
    found: Path | None,  # the archive or the unpacked folder; None downloads
    split: str,
    cache: Path,  # archives are unpacked below it
) -> Content:
    """Return pixels (N,32,32,3) uint8, labels (N,) and classes. Raises RequestError if a checksum is wrong."""
    import torchvision.datasets
    from torchvision.datasets.utils import check_md5, extract_archive

    kind = getattr(torchvision.datasets, dataset)
    folder = cache / dataset.lower()
    root = folder
    with artifacts.lock(cache / f"{dataset.lower()}.lock"):
        try:
            if found is None:
                with patience(seconds=30):
                    kind(folder, download=True)
            elif found.is_dir():
                root = found.parent
                kind = type(dataset, (kind,), {"base_folder": found.name})
            elif check_md5(found, kind.tgz_md5):
                extract_archive(found, folder)
            else:
                raise RequestError(
                    f"{found} is truncated or not the official {kind.filename} (its md5 is not {kind.tgz_md5}): "
                    f"get it from {PAGE}"
                )
            parts = [kind(root, train=train) for train in TRAIN[split]]
        except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError) as error:
            raise RequestError(unreadable(kind, found, folder, error)) from error
    return (
        np.concatenate([part.data for part in parts]),
        np.concatenate([part.targets for part in parts]),
        tuple(parts[0].classes),
    )


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Set a timeout of `seconds` for connections: torchvision has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def unreadable(kind: type, found: Path | None, folder: Path, error: Exception) -> str:
    """Return the line that says why `kind` cannot be read, and what to do."""
    if found is None:
        return (
            f"{kind.__name__} is not in {folder} and could not be downloaded from {kind.url} "  # type: ignore[attr-defined]
            f"({reason(error)}): get it from {PAGE} and name the file with data.path="
        )
    return f"{found} is incomplete ({reason(error)}): download it again from {PAGE}"
