"""From a source of pictures to `Images`: a seeded subset, decoded once into the cache if it fits, streamed if not."""

import errno
import hashlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bdiff.common.errors import RequestError
from bdiff.common.progress import progress
from bdiff.data.base import Images, StreamedImages, TensorImages
from bdiff.data.request import PixelRequest
from bdiff.data.sources import NoSplit, Source
from bdiff.store import artifacts, threads

log = logging.getLogger(__name__)

CHUNK = 256  # pictures per task of a thread
BROKEN = 10  # pictures that cannot be read, after which no more are looked for


def load(
    name: str,
    source: Source,
    request: PixelRequest,
    *,
    flip: bool,
    cache: Path,
    memory: float,  # GiB that the pixels may use
) -> Images:
    """Return the pictures of `source` as `Images`. Raises RequestError if a picture or the request is unusable."""
    stage, most = request.stage(source, cache), request.capacity(memory)
    if source.left_out:
        log.info("%s: skipped in %s: %s", name, source, source.left_out)
    manifest = stage.manifest
    if manifest is None and len(rows := choose(len(source.names), request.limit, request.seed)) <= most:
        with writing(cache), artifacts.lock(stage.folder.with_suffix(".lock")):
            if stage.manifest is None:  # unless another process has decoded them meanwhile
                decode(source, rows, stage, request)
        manifest = stage.manifest
    facts: dict[str, Any] = {"name": name, "split": request.split, "shape": request.shape, "flip": flip}
    if manifest is not None and manifest["count"] <= most:
        # Memory-mapped: pages are loaded on demand, and shared between processes.
        pixels = torch.from_numpy(np.load(stage.folder / "pixels.npy", mmap_mode="c"))
        return TensorImages(
            pixels=pixels,
            labels=torch.from_numpy(np.load(stage.folder / "labels.npy")),
            classes=tuple(manifest["classes"]),
            fingerprint=request.fingerprint(content=manifest["content"]),
            **facts,
        )
    rows = choose(len(source.names), request.limit, request.seed)
    log.info("%s: %d images do not fit in %g GiB and are decoded on demand", name, len(rows), memory)
    labels, classes = source.labelled
    return StreamedImages(
        source=source,
        rows=rows,
        labels=torch.from_numpy(labels[rows]),
        classes=classes,
        fingerprint=request.fingerprint(listing=source.listing),
        **facts,
    )


@contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Raise RequestError, with what to do, if the cache is not writable."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        why = f"{error.strerror}: {error.filename or cache}"
        raise RequestError(f"data cannot be decoded into {cache} ({why}): set paths.cache or BDIFF_CACHE") from error


def content(pixels: np.ndarray, labels: np.ndarray) -> str:
    """Return 16 hex digits of the sha256 over pixels (N,C,H,W) uint8 and labels (N,) int64."""
    total = hashlib.sha256(np.ascontiguousarray(pixels).data)
    total.update(labels.tobytes())
    return total.hexdigest()[:16]


def choose(count: int, limit: int | None, seed: int) -> np.ndarray:
    """Return `limit` of `count` rows, drawn by `seed` and sorted, as int64; all rows if `limit` is None.

    Raises NoSplit if there are fewer.
    """
    if limit is None:
        return np.arange(count)
    if not 1 <= limit <= count:
        raise NoSplit(f"data.limit={limit} is not within 1 to {count}, the number of images")
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit]
    return drawn.sort().values.numpy()


def decode(source: Source, rows: np.ndarray, stage: artifacts.Stage, request: PixelRequest) -> None:
    """Write the pictures at `rows` as pixels.npy (N,C,H,W) uint8, with labels.npy (N,) int64, into the stage's folder.

    Raises RequestError, which names up to `BROKEN` or a few more pictures that cannot be read.
    """
    began, broken = time.monotonic(), dict[int, str]()
    labels, classes = source.labelled
    with artifacts.atomic(stage.folder / "pixels.npy") as scratch:
        shape = (len(rows), *request.shape)
        pixels = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.uint8, shape=shape)

        def fill(start: int) -> int:
            for at, row in enumerate(rows[start : start + CHUNK], start):
                if len(broken) >= BROKEN:
                    break
                try:
                    pixels[at] = source.pixels(int(row), request.size, request.channels)
                except RequestError as problem:
                    broken[at] = str(problem)
            return min(CHUNK, len(rows) - start)

        # Threads suffice: Pillow releases the interpreter's lock to decode and resize.
        with (
            ThreadPoolExecutor(threads.allowed()) as pool,
            progress("decode", len(rows), unit="images", show=len(rows) > 5000) as meter,
        ):
            for done in pool.map(fill, range(0, len(rows), CHUNK)):
                meter.advance(done)
        if broken:
            more = ["there may be more of them"] if len(broken) >= BROKEN else []
            raise RequestError(*(broken[at] for at in sorted(broken)), *more)
        pixels.flush()
        digits = content(pixels, labels[rows])
    with artifacts.atomic(stage.folder / "labels.npy") as scratch:
        np.save(scratch, labels[rows])
    stage.finish(time.monotonic() - began, count=len(rows), classes=classes, content=digits)
