"""Pictures, folders and zips for the data tests; a module of its own since `conftest` is many files' name."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random uint8 of `shape`."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
    """Return `pixels` (H,W) or (H,W,3) as a picture file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    """Write `data` to `path`, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def zip_folder(folder: Path, path: Path) -> Path:
    """Pack all files below `folder` into the zip `path`, last name first."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path
