"""CelebA-HQ (Karras et al. 2018): 30,000 aligned faces, here at 256x256."""

from pathlib import Path

from bdiff.data.base import Images
from bdiff.data.find import local
from bdiff.data.load import load


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
    """Return the pictures at `path`: a folder of any layout, CelebAMask-HQ's included, or a zip."""
    if path is not None and (pictures := Path(path).expanduser() / "CelebA-HQ-img").is_dir():
        path = str(pictures)  # CelebAMask-HQ keeps masks beside its pictures
    origin = (
        "https://github.com/tkarras/progressive_growing_of_gans or https://github.com/switchablenorms/CelebAMask-HQ"
    )
    source = local("celebahq", path, split, cache, origin)
    return load(
        "celebahq",
        source,
        size=size,
        channels=channels,
        split=split,
        limit=limit,
        flip=flip,
        cache=cache,
        seed=seed,
        memory=memory,
    )
