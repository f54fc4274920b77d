"""A perturbation of the whole image, for attacks that add it to one: grains of full strength, black or white."""

import numpy as np

from bdiff.draw import Picture, plain, scaled


def universal(
    size: int,  # px, the image's height and width
    cell: int,  # px at a 32 px image: how large its grains are
    seed: int,
) -> Picture:
    """Return grains of -1 or 1, fixed by `seed`, over the whole image; ValueError unless cell is at least 1."""
    if cell < 1:
        raise ValueError(f"trigger.cell={cell} must be at least 1")
    grain = scaled(cell, size)
    count = -(-size // grain)
    grains = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (count, count))
    picture = plain(size, (0, 0, 0, 1))
    picture[..., :3] = np.kron(grains, np.ones((grain, grain), np.float32))[:size, :size, None]
    return picture
