"""Picture files of any kind as 8-bit grey or colours, with or without alpha: data, triggers and targets alike."""

import numpy as np
from PIL import Image, ImageOps

DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey of 16 bits; Pillow's own conversion clips it at 255


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture as its file means it to be seen, in mode L, RGB or, where parts of it are transparent, RGBA.

    Turned as its EXIF data say, 16 bits a pixel scaled to 8, palettes and CMYK as colours, of several frames the first.
    Raises ValueError for values that are no grey of 16 bits.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in DEEP:
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"its grey runs from {values.min()} to {values.max()}, and 16 bits end at 65535")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def flat(picture: Image.Image) -> Image.Image:
    """Return `upright` over black, which is -1 in an image's range, where it is transparent: in mode L or RGB."""
    picture = upright(picture)
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB")
