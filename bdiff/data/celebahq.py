"""CelebA-HQ (Karras et al. 2018): 30,000 aligned faces, here at 256x256."""

from pathlib import Path

from bdiff.data.base import Images
from bdiff.data.find import Home, local
from bdiff.data.load import load
from bdiff.data.sources import Source

HOME = Home(
    ("celebahq/CelebA-HQ-img", "celebahq"),  # CelebAMask-HQ keeps masks beside its pictures
    origin="https://github.com/tkarras/progressive_growing_of_gans or https://github.com/switchablenorms/CelebAMask-HQ",
)


def source(path: str | None, split: str, cache: Path) -> Source:
    """Return the pictures at `path`: a folder of any layout, CelebAMask-HQ's included, or a zip."""
    if path is not None:
        folder = Path(path).expanduser()
        pictures = [folder / "CelebA-HQ-img", folder / "CelebAMask-HQ" / "CelebA-HQ-img"]
        path = str(next((place for place in pictures if place.is_dir()), path))
    return local(HOME, path, split, cache)


def celebahq(
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
        "celebahq",
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
