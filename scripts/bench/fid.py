"""FID, images a second: bdiff's streamed moments, and pytorch-fid's command line over PNG files of the same images.

The network has random weights in Inception's shapes, since its speed does not depend on them.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from PIL import Image
from pytorch_fid.inception import FID_WEIGHTS_URL
from torch import Tensor, nn

from bdiff.metric.fid.base import Frechet
from bdiff.metric.fid.inception import InceptionFeatures
from bench.subject import Subject
from bench.timing import Figures, rates

BATCH = 50  # pytorch-fid's


def fid(on: Subject, images: int) -> Figures:
    """Take the distance between two sets of `images`, each way: features, moments and the trace of the root."""
    torch.manual_seed(0)
    sets = [torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8) for _ in range(2)]
    with tempfile.TemporaryDirectory() as home:
        weights = Path(home) / "hub" / "checkpoints" / Path(FID_WEIGHTS_URL).name  # where torch's hub has them
        random_inception(weights)
        features = InceptionFeatures(str(weights), "").to(on.device)
        contenders = {
            "bdiff": ours(on, features, sets),
            "bare": bare(on, features, sets[0]),
            "pytorch_fid": theirs(on, Path(home), sets),
        }
        metrics = rates(contenders, [("bdiff", "bare"), ("bdiff", "pytorch_fid")])
    config = {"images": 2 * images, "precision": "fp32", "threads": torch.get_num_threads()}
    return Figures(config | {"compile time": "nothing is compiled"}, metrics)


def random_inception(path: Path) -> None:
    """Write random weights in the shapes of pytorch-fid's."""
    from pytorch_fid import inception

    path.parent.mkdir(parents=True, exist_ok=True)
    with mock.patch.object(inception, "load_state_dict_from_url"), mock.patch.object(nn.Module, "load_state_dict"):
        torch.save(inception.fid_inception_v3().state_dict(), path)


def ours(on: Subject, features: InceptionFeatures, sets: list[Tensor]) -> Callable[[], float]:
    """Return the rate of bdiff's distance over tensors."""

    def distance() -> None:
        frechet = Frechet(features, on.device)
        for pixels, real in zip(sets, (True, False), strict=True):
            frechet.feed(pixels.split(BATCH), real=real)
        frechet.value()

    return on.rate(distance, sum(map(len, sets)))


def bare(on: Subject, features: InceptionFeatures, pixels: Tensor) -> Callable[[], float]:
    """Return the rate of nothing but the network, in batches of pytorch-fid's size."""

    @torch.inference_mode()
    def call() -> None:
        for batch in pixels.to(on.device).split(BATCH):
            features(batch)

    return on.rate(call, len(pixels))


def theirs(on: Subject, home: Path, sets: list[Tensor]) -> Callable[[], float]:
    """Return the rate of pytorch-fid's command line, its start left out, over PNG files."""
    folders = [home / "first", home / "second"]
    for folder, pixels in zip(folders, sets, strict=True):
        folder.mkdir()
        for number, image in enumerate(pixels):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:05d}.png")
    words = [sys.executable, "-m", "pytorch_fid", *map(str, folders), "--device", str(on.device), "--num-workers", "0"]
    environment = os.environ | {"TORCH_HOME": str(home)}
    began = time.perf_counter()
    subprocess.run([*words[:3], "--help"], env=environment, capture_output=True, check=True)
    start = time.perf_counter() - began

    def command() -> float:
        began = time.perf_counter()
        subprocess.run(words, env=environment, capture_output=True, check=True)
        return sum(map(len, sets)) / (time.perf_counter() - began - start)

    return command
