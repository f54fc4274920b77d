"""The images of a plan: those of a run where these are ready, else as many without content. Nothing is written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdiff.common.errors import RequestError
from bdiff.data.base import Images
from bdiff.data.dataset import Dataset
from bdiff.data.load import choose
from bdiff.data.request import PixelRequest
from bdiff.data.sources import NoSplit, Source


@dataclass(frozen=True, eq=False, kw_only=True)
class Outline(Images):
    """Images of which only the number is known, so that no key that rests on them can be."""

    missing: str  # what is missing

    def take(self, rows: Tensor) -> Tensor:
        return torch.zeros((len(rows), *self.shape), dtype=torch.uint8)

    def subset(self, rows: Tensor) -> "Outline":
        return replace(self, labels=self.labels[rows.cpu()])


def outlined(dataset: Dataset, *, cache: Path, seed: int, memory: float, **settings: Any) -> Images:
    """Return the images of conf/data's `settings` without downloading, decoding or listing anything for it.

    Raises RequestError if they are not here and nobody knows how many they are.
    """
    path, split, flip = (settings[name] for name in ("path", "split", "flip"))
    request = PixelRequest(seed=seed, **{name: settings[name] for name in ("size", "channels", "split", "limit")})
    try:
        source = dataset.source(path, split, cache)
    except RequestError:
        if path is not None:
            raise
        source = None
    if source is not None and ready(source, request, cache, memory):
        return dataset(cache=cache, seed=seed, memory=memory, **settings)
    if source is not None and source.listed:
        found, classes = source.labelled
        labels = torch.from_numpy(found)
    else:
        count, classes = official(dataset, path, split), tuple(map(str, range(dataset.classes)))
        labels = torch.arange(count) % dataset.classes
    return Outline(
        name=dataset.name,
        split=split,
        classes=classes,
        labels=labels[torch.from_numpy(choose(len(labels), request.limit, seed))],
        shape=request.shape,
        flip=flip,
        fingerprint="unknown",
        missing=f"{dataset.name} {split}: {lacking(dataset, path, cache)}",
    )


def ready(source: Source, request: PixelRequest, cache: Path, memory: float) -> bool:
    """Return whether a run would neither download, decode nor list anything: decoded already, or to be streamed."""
    if request.stage(source, cache).manifest is not None:
        return True
    return source.listed and len(choose(len(source.names), request.limit, request.seed)) > request.capacity(memory)


def official(dataset: Dataset, path: str | None, split: str) -> int:
    """Return how many images the official dataset has in a split. Raises NoSplit if that is not declared."""
    sizes = dataset.sizes if path is None else {}
    count = sizes.get(split) or sizes.get("all") or (sum(sizes.values()) if split == "all" else 0)
    if not count:
        raise NoSplit(f"how many images there are in data {dataset.name} is not known: bdiff data prepare says it")
    return count


def lacking(dataset: Dataset, path: str | None, cache: Path) -> str:
    """Return what has to be done before a run can take the dataset's images."""
    home = dataset.home
    if path is not None or not home.places or home.place(cache):
        return "not decoded yet"
    return "not here, to be downloaded" if home.downloads else f"not here, {home.hint(cache)}"
