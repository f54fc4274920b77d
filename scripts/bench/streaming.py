"""Streaming 256 px JPEGs, images a second: through bdiff's workers to the device, and the decoder by itself.

Memory is that of the process and its workers, at two numbers of images: it should be the same.
"""

import io
import multiprocessing
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from bdiff.common.device import synchronize
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.data.base import Images, batches
from bench.subject import Subject
from bench.timing import Figures, rates

SIZE, BATCH = 256, 32


def streaming(on: Subject, images: int, workers: int) -> Figures:
    """Read `images` of a zip once in a random order, each way, and four times as many for the memory they take."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (archive(Path(folder) / f"{count}.zip", count) for count in (images, 4 * images))
        contenders = {
            "bdiff": streamed(on, opened(few, folder), workers),
            "bdiff_no_workers": streamed(on, opened(few, folder), 0),
            "decoder": decoded(few, images, workers),
        }
        metrics = rates(contenders, [("bdiff", "decoder")])
        for name, path in (("", few), ("_of_4_times_as_many", many)):
            metrics[f"resident_mib{name}"] = peak(on, path, folder, workers)
    config = {"images": images, "size": SIZE, "batch": BATCH, "workers": workers, "cores": os.cpu_count()}
    return Figures(config, metrics)


def archive(path: Path, count: int) -> Path:
    """Write a zip of smooth JPEGs, as CelebA-HQ's come; returns it."""
    draw = torch.Generator().manual_seed(0)
    with zipfile.ZipFile(path, "w") as into:
        for number in range(count):
            small = torch.randint(256, (16, 16, 3), generator=draw, dtype=torch.uint8).numpy()
            data = io.BytesIO()
            Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(data, "JPEG", quality=95)
            into.writestr(f"{number:06d}.jpg", data.getvalue())
    return path


def opened(path: Path, folder: str) -> Images:
    """Return the pictures of a zip as bdiff streams them."""
    words = ["data=celebahq", f"data.path={path}", f"paths.cache={folder}/cache", "model.pretrained=null"]
    (config,) = jobs(words, False)
    images: Images = make(config.data, cache=Path(folder) / "cache", seed=0, memory=0.0)
    return images


def streamed(on: Subject, images: Images, workers: int) -> Callable[[], float]:
    """Return the rate of bdiff's batches, as training and reference statistics get them."""

    def read() -> None:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1)).split(BATCH)
        for _ in batches(images, order, on.device, workers):
            pass
        synchronize(on.device)

    return on.rate(read, len(images))


def decoded(path: Path, count: int, workers: int) -> Callable[[], float]:
    """Return the rate of Pillow alone, each of as many processes decoding its part of the zip."""

    def contender() -> float:
        numbers = [list(range(first, count, workers)) for first in range(workers)]
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(decode, [path] * workers, [one[:1] for one in numbers]))  # which imports Pillow
            began = time.perf_counter()
            list(pool.map(decode, [path] * workers, numbers))
            return count / (time.perf_counter() - began)

    return contender


def decode(path: Path, numbers: list[int]) -> int:
    """Decode pictures of a zip, and return how many pixels they have."""
    pixels = 0
    with zipfile.ZipFile(path) as file:
        for number in numbers:
            with Image.open(io.BytesIO(file.read(f"{number:06d}.jpg"))) as picture:
                picture.load()
                pixels += picture.width * picture.height
    return pixels


def peak(on: Subject, path: Path, folder: str, workers: int) -> float:
    """Return the memory in MiB that this process and its workers hold at most while they read a zip."""
    images, most = opened(path, folder), 0
    for _ in batches(images, torch.arange(len(images)).split(BATCH), on.device, workers):
        most = max(most, resident(os.getpid()) + sum(map(resident, children(os.getpid()))))
    return most / 1024


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    return [
        int(one) for task in Path(f"/proc/{parent}/task").iterdir() for one in (task / "children").read_text().split()
    ]


def resident(process: int) -> int:
    """Return the KiB of its own that a process holds, shared libraries left out; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
