"""Torch-free helpers for pictures.

A picture is a float32 array (size, size, 4): RGB in [-1, 1], then alpha in [0, 1], where 0 is background. If each
channel has a background of its own, it is (size, size, 8): RGB and grey, then the alpha of each.
Lengths that the papers give in pixels are for a 32 px image, and scale with the image, unless their unit is the pixel.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from bdiff.common.places import no_file
from bdiff.pictures.modes import PictureError, has_exact_background, upright

Picture = np.ndarray
Point = tuple[float, float]
Colour = tuple[int, int, int]  # 0..255

BASE = 32  # px, the image size of published lengths
MARGIN = 2  # px at BASE, between a trigger and the lower right corner (TRIGGER_GAP_X and _Y in the authors' code)
PLACES = ("corner", "centre")  # of a trigger: lower right, inside the margin, or in the middle
UNITS = ("image", "pixel")  # of lengths: pixels of a 32 px image, or of the image itself
FINE = 1024  # px, minimum size of a drawing before it is scaled down; PIL widens a shape by half a pixel
#: the formats that Pillow may read, whatever the file's name: others start programs (EPS starts Ghostscript)
FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
COLOURS = {4: 3, 8: 4}  # planes of colours among a picture's planes; the others are alpha
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as PIL's "L"


def scaled(pixels: int, size: int) -> int:
    """Scale a length in pixels of a 32 px image to a `size` px image; at least 1."""
    return max(1, round(pixels * size / BASE))


def length(pixels: int, size: int, unit: str) -> int:
    """Return a length in pixels of a `size` px image, given in one of UNITS."""
    return scaled(pixels, size) if unit == "image" else pixels


def margin(size: int, where: str, unit: str) -> int:
    """Return the pixels between a trigger and the edges that it is next to."""
    return length(MARGIN, size, unit) if where == "corner" else 0


def plain(size: int, rgba: tuple[float, float, float, float]) -> Picture:
    """Return a picture of one colour."""
    return np.full((size, size, 4), rgba, np.float32)


def empty(size: int, planes: int = 4) -> Picture:
    """Return an empty picture of 4 or 8 planes, all background: colours -1, alpha 0."""
    picture = np.zeros((size, size, planes), np.float32)
    picture[..., : COLOURS[planes]] = -1
    return picture


def grains(size: int, cell: int, draw: Callable[[tuple[int, int]], np.ndarray]) -> Picture:
    """Return grains over the whole image, grey values from `draw` in [-1,1], each `cell` px wide at a 32 px image.

    Raises ValueError unless cell is at least 1.
    """
    if cell < 1:
        raise ValueError(f"trigger.cell={cell} must be at least 1")
    grain = scaled(cell, size)
    count = -(-size // grain)
    picture = plain(size, (0, 0, 0, 1))
    drawn = draw((count, count)).astype(np.float32)
    picture[..., :3] = np.kron(drawn, np.ones((grain, grain), np.float32))[:size, :size, None]
    return picture


def side_in(size: int, side: int, where: str = "corner", unit: str = "image") -> int:
    """Return `side`, in one of UNITS, in pixels of a `size` px image; ValueError if it does not fit where it lies."""
    room = size - margin(size, where, unit)
    if isinstance(side, int) and side >= 1 and length(side, size, unit) <= room:
        return length(side, size, unit)
    largest = max((s for s in range(1, max(BASE, size) + 1) if length(s, size, unit) <= room), default=0)
    pixels = "pixels" if unit == "pixel" else f"pixels at {BASE} px"
    raise ValueError(f"trigger.side={side} does not fit a {size} px image: set whole {pixels}, 1 to {largest}")


def place(picture: Picture, size: int, where: str = "corner", unit: str = "image") -> Picture:
    """Return an empty `size` px picture with a smaller one (h, w, planes) at one of PLACES."""
    gap = margin(size, where, unit)
    free = [size - gap - side for side in picture.shape[:2]]
    assert min(free) >= 0, (picture.shape, size)
    top, left = free if where == "corner" else [space // 2 for space in free]
    page = empty(size, picture.shape[2])
    page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page


def from_pil(image: Image.Image) -> Picture:
    """Return an RGBA image as a picture; fully transparent pixels become RGB -1."""
    picture = np.asarray(image, np.float32) / 255
    picture[..., :3] = picture[..., :3] * 2 - 1
    picture[picture[..., 3] == 0, :3] = -1
    return picture


@contextmanager
def opened(path: str | Path | None, option: str, hint: str) -> Iterator[Image.Image]:
    """Open a picture file, as the value of `option`.

    ValueError, which names the file and ends with the `hint`, if it is missing or not a picture.
    """
    if path is None:
        raise ValueError(f"{option} is not set; {hint}")
    if why := no_file(Path(path)):
        raise ValueError(f"cannot load {option}={path}: it {why}; {hint}")
    try:
        with Image.open(path, formats=FORMATS) as file:
            yield file
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot load {option}={path}: {reason_of(error)}; {hint}") from error


def load(path: str | Path | None, size: int, option: str, exact: bool = False) -> Picture:
    """Return a picture file fitted into size x size without distortion; the rest is background.

    An alpha channel is kept. A file without one has a black background (pixels of -1, as in BadDiffusion's mask).
    A file that is missing or not an image raises ValueError, naming the file and the `option` to set; so does one whose
    format blurs its background, if that must be `exact`.
    """
    hint = f"set it to a picture: {option}=<png{'' if exact else ' or jpg'}>"
    with opened(path, option, hint) as file:
        lossy = exact and not has_exact_background(file, Path(str(path)).read_bytes())
        image = upright(file)
    if lossy:
        raise ValueError(
            f"{option}={path} has no exact background, as its format blurs edges: {hint}, redrawn and "
            "transparent where the image shows"
        )
    transparent = image.mode == "RGBA"
    image = ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color=(0, 0, 0, 0) if transparent else 0)
    picture = from_pil(image.convert("RGBA"))
    if not transparent:
        picture[..., 3] = (picture[..., :3] > -1).any(axis=-1)
    return picture


def reason_of(error: Exception) -> str:
    """Return why a file cannot be read as a picture."""
    return str(error) if isinstance(error, PictureError) else f"it is not a readable picture ({', '.join(FORMATS)})"


def to_channels(picture: Picture, channels: int) -> np.ndarray:
    """Return the picture's colours as (C, H, W) in [-1, 1], without alpha: 3 = RGB, 1 = luminance."""
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")
    rgb, grey = picture[..., :3], picture[..., 3:4]
    if channels == 1 and picture.shape[-1] == 4:
        grey = (rgb @ LUMINANCE)[..., None]
    colours = rgb if channels == 3 else grey
    return np.ascontiguousarray(colours.transpose(2, 0, 1)).clip(-1, 1)


def to_alpha(picture: Picture, channels: int) -> np.ndarray:
    """Return the picture's alpha in [0, 1]: (1, H, W), or (C, H, W) if each channel has its own."""
    if picture.shape[-1] == 4:
        return picture[..., 3][None]
    own = picture[..., 4:7] if channels == 3 else picture[..., 7:]
    return np.ascontiguousarray(own.transpose(2, 0, 1))


def smooth(points: Sequence[Point], closed: bool = True, steps: int = 16) -> list[Point]:
    """Return a Catmull-Rom curve through `points`, as a polyline with `steps` segments between two of them."""
    p = np.array(points, np.float64)
    n = len(p)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    curve: list[Point] = []
    for a, b, c, d in (p[i : i + 4] for i in range(n if closed else n - 1)):
        piece = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        curve.extend((x, y) for x, y in piece.tolist())
    return curve if closed else [*curve, points[-1]]


class Canvas:
    """A drawing in unit coordinates, (0, 0) upper left and (1, 1) lower right, that looks the same at any size."""

    def __init__(self, size: int, background: Colour | None = None):
        self.factor = max(8, FINE // size)
        self.scale = size * self.factor
        self.image = Image.new("RGBA", (self.scale, self.scale), background or (0, 0, 0, 0))
        self.pen = ImageDraw.Draw(self.image)

    def _pixels(self, points: Iterable[Point]) -> list[Point]:
        return [(x * self.scale - 0.5, y * self.scale - 0.5) for x, y in points]  # PIL measures from pixel centres

    def polygon(self, points: Iterable[Point], colour: Colour | None) -> None:
        """Fill the closed shape through `points`; colour None cuts a hole."""
        self.pen.polygon(self._pixels(points), fill=colour or (0, 0, 0, 0))

    def ellipse(self, centre: Point, radii: Point, colour: Colour | None) -> None:
        """Fill an ellipse; colour None cuts a hole."""
        (x, y), (rx, ry) = centre, radii
        self.pen.ellipse(self._pixels([(x - rx, y - ry), (x + rx, y + ry)]), fill=colour or (0, 0, 0, 0))

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a polyline with round joints and ends."""
        self.pen.line(self._pixels(points), colour, max(1, round(width * self.scale)), joint="curve")
        for end in (points[0], points[-1]):
            self.ellipse(end, (width / 2, width / 2), colour)

    def picture(self) -> Picture:
        """Return the drawing, downsampled to its size by averaging."""
        return from_pil(self.image.reduce(self.factor))
