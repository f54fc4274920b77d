"""Picture files in any mode as 8-bit grey or RGB, with or without alpha, for data, triggers and targets."""

import warnings

import numpy as np
from PIL import Image, ImageOps

# Pillow's warnings about odd metadata are several lines each; unreadable files are errors
warnings.filterwarnings("ignore", module=r"PIL\.")

DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # 16-bit grey; Pillow's own conversion clips it at 255
KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
#: factor from 2 or 4 bits to 8: a PNG's pixels are decoded to 8 bits, its transparent value is not
LEVEL = {"L;2": 85, "L;4": 17}


class PictureError(ValueError):
    """A picture that cannot be read correctly: the reason and what to do, to follow a file's name and a colon."""


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture as it should be displayed, in mode L, RGB or, if parts of it are transparent, RGBA.

    It is rotated by its EXIF orientation; 16 bits per pixel are scaled to 8, palettes and CMYK converted to RGB, and of
    several frames the first is taken. As in torchvision, colour profiles are not applied. Raises PictureError for what
    cannot be read correctly.
    """
    if picture.mode == "CMYK" and picture.format == "JPEG" and "adobe" not in picture.info:
        raise PictureError("it is CMYK without Adobe's marker, and may be inverted: save it as RGB")
    key = transparent_value(picture)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in DEEP:
        return grey(np.asarray(picture), key)
    if picture.mode not in KNOWN:
        raise PictureError(f"it is of mode {picture.mode}, whose values have no known range: save it as 8-bit RGB")
    if key is not None:
        picture.info["transparency"] = key
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def transparent_value(picture: Image.Image) -> int | tuple[int, ...] | bytes | None:
    """Return the decoded value of the transparent pixels of a picture just opened; None if there is none."""
    tiles = getattr(picture, "tile", None)  # exists until the file is decoded
    raw = tiles[0].args if tiles else None
    key = picture.info.get("transparency")
    if key is not None and raw == "RGB;16B":
        raise PictureError("it has one transparent colour of 16 bits a channel: save it with an alpha channel")
    return key * LEVEL[raw] if isinstance(key, int) and isinstance(raw, str) and raw in LEVEL else key


def grey(values: np.ndarray, key: int | tuple[int, ...] | bytes | None) -> Image.Image:
    """Return 16-bit grey (H,W) as 8 bits, in mode L, or RGBA if one value `key` is transparent."""
    if values.min() < 0 or values.max() > 0xFFFF:
        raise PictureError(f"it has grey values from {values.min()} to {values.max()}, and 16 bits end at 65535")
    picture = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if key is not None:
        picture.putalpha(Image.fromarray((values != key).astype(np.uint8) * 255))
    return picture.convert("L" if key is None else "RGBA")


def flat(picture: Image.Image) -> Image.Image:
    """Return `upright` with transparent pixels blended over black (-1 in an image's range), in mode L or RGB."""
    picture = upright(picture)
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB")


def has_exact_background(picture: Image.Image, data: bytes) -> bool:
    """Return whether a picture file's background, black or transparent, is exact: not in JPEG or lossy WebP.

    An alpha channel is exact in any format.
    """
    if picture.format == "WEBP":
        return picture.has_transparency_data or b"VP8L" in data
    return picture.format not in ("JPEG", "MPO")
