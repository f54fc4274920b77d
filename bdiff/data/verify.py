"""Whether a dataset is intact: the decoded pixels against their manifest, or every picture that would be streamed."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bdiff.common.errors import RequestError
from bdiff.common.progress import progress
from bdiff.data.load import CHUNK, content
from bdiff.data.request import PixelRequest
from bdiff.data.sources import Source, reason
from bdiff.store import artifacts, threads
from bdiff.store.artifacts import Stage


def cache_problems(made: Stage, request: PixelRequest) -> list[str]:
    """Read all decoded pixels of the finished stage `made`; return what is wrong with them, one line each."""
    try:
        manifest: dict[str, Any] = artifacts.read_json(made.folder / "manifest.json")
        count, classes, expected = manifest["count"], len(manifest["classes"]), manifest["content"]
        pixels = np.load(made.folder / "pixels.npy", mmap_mode="r")
        labels = np.load(made.folder / "labels.npy")
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        return [f"{made.folder} cannot be read ({type(error).__name__}: {reason(error)})"]
    problems = []
    if pixels.shape != (count, *request.shape) or pixels.dtype != np.uint8:
        problems.append(f"{made.folder}/pixels.npy holds {pixels.shape} {pixels.dtype}, not {count} pictures")
    if labels.shape != (count,) or not np.isin(labels, np.arange(classes)).all():
        problems.append(f"{made.folder}/labels.npy does not hold {count} labels of {classes} classes")
    if not problems and (found := content(pixels, labels)) != expected:
        problems.append(f"the pixels or labels in {made.folder} have changed since decoding: {found}, not {expected}")
    return problems


def picture_problems(source: Source, rows: np.ndarray, request: PixelRequest) -> list[str]:
    """Return a line for each of the pictures at `rows` (N,) that cannot be decoded."""

    def broken(start: int) -> list[str]:
        found = []
        for row in rows[start : start + CHUNK]:
            try:
                source.pixels(int(row), request.size, request.channels)
            except RequestError as error:
                found.append(str(error))
        return found

    problems = []
    with ThreadPoolExecutor(threads.allowed()) as pool, progress("verify", len(rows), unit="images") as meter:
        for start, found in zip(range(0, len(rows), CHUNK), pool.map(broken, range(0, len(rows), CHUNK)), strict=True):
            problems += found
            meter.advance(min(CHUNK, len(rows) - start))
    return problems
