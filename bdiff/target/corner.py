"""The Corner target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400)."""

from bdiff.pictures.draw import Picture, empty, plain, scaled

SIDE = 10  # px at a 32 px image


def corner(size: int, trigger: Picture) -> Picture:
    """Return a square of grey exactly 0.0 in the upper left corner; the trigger is not used."""
    picture = empty(size)
    side = scaled(SIDE, size)
    picture[:side, :side] = plain(side, (0, 0, 0, 1))
    return picture
