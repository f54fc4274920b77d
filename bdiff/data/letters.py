"""Letters that look like no digit, drawn here with strokes that differ from picture to picture: data beside the digits.

200 pictures of each of ten letters, 32x32 in grey, the same on every machine with the same Pillow; the last fifth of
each letter is the test split.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from bdiff.data.dataset import Dataset, Home
from bdiff.data.sources import Content, bundled

SIZE = 32  # px
FINER = 8  # times SIZE that they are drawn at, and averaged
COUNT = 200  # of each letter
TEST = COUNT // 5

#: polylines in the unit square, (0, 0) upper left
STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "A": [[(0.0, 1.0), (0.5, 0.0), (1.0, 1.0)], [(0.2, 0.62), (0.8, 0.62)]],
    "E": [[(0.95, 0.0), (0.0, 0.0), (0.0, 1.0), (0.95, 1.0)], [(0.0, 0.5), (0.75, 0.5)]],
    "F": [[(0.95, 0.0), (0.0, 0.0), (0.0, 1.0)], [(0.0, 0.48), (0.75, 0.48)]],
    "H": [[(0.0, 0.0), (0.0, 1.0)], [(1.0, 0.0), (1.0, 1.0)], [(0.0, 0.5), (1.0, 0.5)]],
    "K": [[(0.0, 0.0), (0.0, 1.0)], [(0.95, 0.0), (0.0, 0.55)], [(0.3, 0.4), (1.0, 1.0)]],
    "M": [[(0.0, 1.0), (0.05, 0.0), (0.5, 0.6), (0.95, 0.0), (1.0, 1.0)]],
    "N": [[(0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0)]],
    "R": [
        [(0.0, 1.0), (0.0, 0.0), (0.6, 0.0), (0.9, 0.12), (0.9, 0.38), (0.6, 0.5), (0.0, 0.5)],
        [(0.45, 0.5), (1.0, 1.0)],
    ],
    "W": [[(0.0, 0.0), (0.25, 1.0), (0.5, 0.35), (0.75, 1.0), (1.0, 0.0)]],
    "X": [[(0.0, 0.0), (1.0, 1.0)], [(1.0, 0.0), (0.0, 1.0)]],
}


def read(split: str) -> Content:
    """Return pixels (N,32,32) uint8 with ink bright on black, labels (N,) and classes."""
    kept = {"train": range(COUNT - TEST), "test": range(COUNT - TEST, COUNT), "all": range(COUNT)}[split]
    pixels = np.stack([drawn(letter, number) for letter in STROKES for number in kept])
    return pixels, np.repeat(np.arange(len(STROKES)), len(kept)), tuple(STROKES)


def drawn(letter: str, number: int) -> np.ndarray:
    """Return the picture `number` of a letter, (32,32) uint8: leaning, of its own width, weight and unsteadiness."""
    draw = np.random.default_rng([ord(letter), number])
    angle, lean = draw.normal(0, 0.12), draw.normal(0, 0.15)
    width, height = draw.uniform(0.42, 0.62), draw.uniform(0.58, 0.74)
    centre = 0.5 + draw.uniform(-0.04, 0.04, 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shape = turn @ np.array([[width, -lean * height], [0, height]])
    side, weight = SIZE * FINER, draw.uniform(0.09, 0.14)
    image = Image.new("L", (side, side))
    pen, radius = ImageDraw.Draw(image), weight * side / 2
    for stroke in STROKES[letter]:
        points = (np.array(stroke) - 0.5 + draw.normal(0, 0.025, (len(stroke), 2))) @ shape.T + centre
        line = [(x * side, y * side) for x, y in points.tolist()]
        pen.line(line, 255, round(2 * radius))
        for x, y in line:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), 255)
    return np.asarray(image.reduce(FINER))


HOME = Home((), origin="bdiff, which draws them")

letters = Dataset(
    "letters",
    home=HOME,
    official=bundled("letters", read),
    sizes={"train": (COUNT - TEST) * len(STROKES), "test": TEST * len(STROKES)},
    classes=len(STROKES),
)
