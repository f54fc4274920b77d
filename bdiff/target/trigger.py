"""The NoShift target of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), called TRIGGER in its code."""

from bdiff.pictures.draw import Picture


def trigger(size: int, trigger: Picture) -> Picture:
    """Return the trigger itself, in its place."""
    return trigger.copy()
