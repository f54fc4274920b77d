"""Picture files as BadDiffusion's code reads them (Chou et al. 2023, arXiv 2212.05400; checked against the code).

Alpha is dropped, so that the colours below it show. The shorter edge is resized bilinearly, as torchvision's `Resize`
does with PIL's pictures. In a trigger, values of at least 0.999 then become the background, -1, each channel by
itself. Their division by 1 + 1e-5 is left out.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from bdiff.pictures.draw import Picture, opened

READINGS = ("alpha", "authors")
WHITE = 0.999  # of [-1,1], where the background of a trigger begins

#: the picture files of published attacks, in their repositories, by SHA-256
FILES = {
    "3b82ee4df1ed8b602f781d0634288423b52fcecbe221ab447debfc2382a7b103": "BadDiffusion/static/stop_sign_wo_bg.png",
    "f335c4df8c019a5e11487bec5fa193c72b3ce1d12dead8bcb9da2b9c41ae6d4f": "BadDiffusion/static/cat_wo_bg.png",
    "9e1a1ca228202277e84f58bb31673ebc8881340fbafdf83505e7ad66bfcad2e6": "BadDiffusion/static/glasses.png",
    "271a37da9650f3068f1688ee975da7acbac97ace7502ccdb65ae311e0532c9be": "BadDiffusion/static/fedora-hat.png",
    "e12c8a0059eca355bfbed34e6ff2e8db993ac8f78462e62d358cfbd147e20890": "BadDiffusion/static/hat.png",
    "79cae5d9d6510d9645fccbb099437f2f811e5784f0a23d0567fc2a7bcd90b835": "BadDiffusion/static/stop_sign_bg_blk.jpg",
    "59b0dfbe7419b32705dc738ad57a6938619b2f55bb3ffd7bddca69dd6a683714": "BadDiffusion/static/stop_sign_bg_w.jpg",
    "e313fb548a8b873d999d50426ebe2752f5512cb9318def33077158589c3b344d": "TrojDiff/images/hello_kitty.png",
    "b758b0d4d74a7709b36451226e20abfa2149f3f4e83a00f960b168557388803d": "TrojDiff/images/mickey.png",
}
#: which of them an option stands in for, in rows whose `published.pictures` names no other
ORIGINALS = {
    "stop_sign": "BadDiffusion/static/stop_sign_wo_bg.png",
    "glasses": "BadDiffusion/static/glasses.png",
    "hat": "BadDiffusion/static/fedora-hat.png",
    "cat": "BadDiffusion/static/cat_wo_bg.png",
}


def trigger(path: str | Path | None, side: int) -> Picture:
    """Return the file as a trigger (h, w, 8) whose shorter edge is `side` px; white and black are background."""
    colours = read(path, side, "trigger.path")
    shows = (colours > -1) & (colours < WHITE)
    return np.concatenate([np.where(shows, colours, -1), shows], axis=-1, dtype=np.float32)


def target(path: str | Path | None, size: int) -> Picture:
    """Return the file as a target (size, size, 8), stretched to a square, without a background."""
    colours = read(path, (size, size), "target.path")
    return np.concatenate([colours, np.ones_like(colours)], axis=-1)


def read(path: str | Path | None, size: int | tuple[int, int], option: str) -> np.ndarray:
    """Return a file's RGB and grey, (h, w, 4) in [-1, 1], of a `size` (width, height) or with that shorter edge.

    ValueError if the file, the value of `option`, is missing or not a picture.
    """
    with opened(path, option, f"set it to a picture: {option}=<png or jpg>") as file:
        planes = [file.convert("RGB"), file.convert("L")]
    shape = edges(planes[0].size, size) if isinstance(size, int) else size
    resized = [np.asarray(plane.resize(shape, Image.Resampling.BILINEAR)) for plane in planes]
    return np.dstack(resized).astype(np.float32) / 255 * 2 - 1


def edges(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Return width and height with that shorter edge, in about the same ratio as `size`."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
