"""Picture files of any kind as 8-bit grey or colours, with or without alpha: data, triggers and targets alike."""

import warnings

import numpy as np
from PIL import Image, ImageOps

# of pictures' odd metadata, over several lines for each; what cannot be read is an error
warnings.filterwarnings("ignore", module=r"PIL\.")

DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey of 16 bits; Pillow's own conversion clips it at 255
KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
#: what a level of 2 or 4 bits is of 8: a PNG's pixels are decoded to 8 bits, its transparent value is not
LEVEL = {"L;2": 85, "L;4": 17}


class PictureError(ValueError):
    """A picture that cannot be read rightly, and what to do: words to follow a file's name and a colon."""


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture as its file means it to be seen, in mode L, RGB or, where parts of it are transparent, RGBA.

    Turned as its EXIF data say, 16 bits a pixel scaled to 8, palettes and CMYK as colours, of several frames the first;
    profiles of colours are not applied, as in torchvision. Raises PictureError, in a line, for what
    cannot be read rightly.
    """
    if picture.mode == "CMYK" and picture.format == "JPEG" and "adobe" not in picture.info:
        raise PictureError("it is CMYK without Adobe's mark, and may be inverted: save it as RGB")
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
    """Return the value of the pixels that are transparent, as they are decoded, of a picture just opened; or None."""
    tiles = getattr(picture, "tile", None)  # a file's only, until it is decoded
    raw = tiles[0].args if tiles else None
    key = picture.info.get("transparency")
    if key is not None and raw == "RGB;16B":
        raise PictureError("it has one transparent colour of 16 bits a channel: save it with an alpha channel")
    return key * LEVEL[raw] if isinstance(key, int) and isinstance(raw, str) and raw in LEVEL else key


def grey(values: np.ndarray, key: int | tuple[int, ...] | bytes | None) -> Image.Image:
    """Return grey of 16 bits (H,W) as 8 bits, in mode L, or RGBA where one value `key` is transparent."""
    if values.min() < 0 or values.max() > 0xFFFF:
        raise PictureError(f"it has grey values from {values.min()} to {values.max()}, and 16 bits end at 65535")
    picture = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if key is not None:
        picture.putalpha(Image.fromarray((values != key).astype(np.uint8) * 255))
    return picture.convert("L" if key is None else "RGBA")


def flat(picture: Image.Image) -> Image.Image:
    """Return `upright` over black, which is -1 in an image's range, where it is transparent: in mode L or RGB."""
    picture = upright(picture)
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB")


def has_exact_background(picture: Image.Image, data: bytes) -> bool:
    """Return whether what is black, or transparent, in a picture's file `data` is so exactly: in no JPEG or lossy WebP.

    An alpha channel is exact in any format.
    """
    if picture.format == "WEBP":
        return picture.has_transparency_data or b"VP8L" in data
    return picture.format not in ("JPEG", "MPO")
