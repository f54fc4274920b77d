"""A trigger that looks like noise: nothing about it says where it is or what it shows."""

import numpy as np

from bdiff.draw import Picture, plain, scaled


def noise(
    size: int,  # px, the image's height and width
    cell: int,  # px at a 32 px image: how large its grains are
    seed: int,
) -> Picture:
    """Return grey grains, uniform in [-1,1] and fixed by `seed`, over the whole image; ValueError unless cell >= 1."""
    if cell < 1:
        raise ValueError(f"trigger.cell={cell} must be at least 1")
    grain = scaled(cell, size)
    count = -(-size // grain)
    grains = np.random.default_rng(seed).uniform(-1, 1, (count, count)).astype(np.float32)
    picture = plain(size, (0, 0, 0, 1))
    picture[..., :3] = np.kron(grains, np.ones((grain, grain), np.float32))[:size, :size, None]
    return picture
