"""Pictures of your own: a folder, all that is below it included, or a zip as NVlabs/edm's dataset_tool makes."""

from pathlib import Path

from bdiff.data.base import Images
from bdiff.data.find import local
from bdiff.data.load import load


def images(
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
    """Return the pictures at `path`; the class is the parent folder, or what the zip's dataset.json says."""
    source = local("images", path, split, cache, origin="wherever your pictures are")
    return load(
        "images",
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
