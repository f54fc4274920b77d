"""LSUN outdoor churches (Yu et al. 2015): 126,227 training and 300 validation photographs, here at 256x256."""

from pathlib import Path

from bdiff.data.base import Images
from bdiff.data.find import Home, local
from bdiff.data.load import load
from bdiff.data.sources import Source

HOME = Home(("lsun_church",), origin="https://www.yf.io/p/lsun (or https://github.com/fyu/lsun)")


def source(path: str | None, split: str, cache: Path) -> Source:
    """Return the pictures at `path`: church_outdoor_train_lmdb, a folder that holds it, or pictures."""
    return local(HOME, path, split, cache, category="church_outdoor")


def lsun_church(
    *,
    cache: Path,
    seed: int,
    memory: float,
    size: int,
    channels: int,
    split: str,
    path: str | None,
    limit: int | None,
    flip: bool,
) -> Images:
    """Return the pictures of `source`."""
    return load(
        "lsun_church",
        source(path, split, cache),
        size=size,
        channels=channels,
        split=split,
        limit=limit,
        flip=flip,
        cache=cache,
        seed=seed,
        memory=memory,
    )
