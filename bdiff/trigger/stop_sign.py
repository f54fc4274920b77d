"""The stop sign of BadDiffusion (Chou et al. 2023, arXiv 2212.05400), redrawn."""

from math import cos, pi, sin
from typing import Annotated

from bdiff.config.rules import at_least
from bdiff.pictures.draw import Canvas, Picture, Point, place, side_in, smooth

RED, WHITE = (200, 16, 30), (250, 250, 250)

# Strokes in a letter's own box, (0, 0) upper left to (1, 1) lower right.
LETTERS: dict[str, list[list[Point]]] = {
    "S": [smooth([(1, 0.12), (0.5, 0), (0, 0.25), (0.5, 0.5), (1, 0.75), (0.5, 1), (0, 0.88)], closed=False)],
    "T": [[(0, 0), (1, 0)], [(0.5, 0), (0.5, 1)]],
    "O": [smooth([(0.5, 0), (1, 0.25), (1, 0.75), (0.5, 1), (0, 0.75), (0, 0.25), (0.5, 0)], closed=False)],
    "P": [[(0, 1), (0, 0), (0.7, 0), (1, 0.15), (1, 0.45), (0.7, 0.6), (0, 0.6)]],
}


def octagon(radius: float) -> list[Point]:
    """Return the corners of a regular octagon around the centre, with a horizontal side at the bottom."""
    angles = [(k + 0.5) * pi / 4 for k in range(8)]
    return [(0.5 + radius * cos(a), 0.5 + radius * sin(a)) for a in angles]


def stop_sign(
    size: int,  # px, the image's height and width
    side: Annotated[int, at_least(1), "px at a 32 px image; published: 4, 8, 11, 14, 18"] = 14,
) -> Picture:
    """Return a red octagon with a white rim and the word STOP, placed like the box; ValueError if it does not fit."""
    canvas = Canvas(side_in(size, side))
    edge = 0.5 / cos(pi / 8)  # the radius at which the octagon touches all four sides
    canvas.polygon(octagon(edge), WHITE)
    canvas.polygon(octagon(0.89 * edge), RED)
    for k, letter in enumerate("STOP"):
        for stroke in LETTERS[letter]:
            canvas.line([(0.125 + 0.205 * k + 0.135 * x, 0.35 + 0.3 * y) for x, y in stroke], 0.052, WHITE)
    return place(canvas.picture(), size)
