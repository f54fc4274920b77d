"""What a run's cost grows with: images, timesteps, pixels, jobs and processes, at three sizes each.

Fits `seconds = a * size^exponent` to each, and says what the published sizes of 256 px would cost on one card and on
eight, by operations that are counted and a training rate that was published.

    python scripts/bench scaling                  # results/bench/scaling.json
    PYTHONPATH=scripts python -m bench.scaling    # docs/scaling.png from it
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DModel

from bdiff.config.compose import jobs as composed
from bdiff.diffusion.cost import operations
from bdiff.pipeline.prepare import without
from bench.sampling import drawn
from bench.subject import Subject
from bench.sweeps import ROOT, TINY, sweep
from bench.timing import Figures

GROWS = ("images", "timesteps", "pixels", "jobs", "processes")
ROUNDS = 3  # of which the fastest counts
#: images a second that the 35.7 M network at 32 px was trained with on an H100 (compiled, NHWC, bf16), as published;
#: the same operations per second are assumed of other networks, and a third of training's for a pass forth
PUBLISHED = 3225.0
#: rows trained on, and image-steps sampled, of a run at the published size: 50 epochs, 10,000 clean and 2,048 triggered
#: samples of 1,000 steps
SIZES = {
    "cifar10": (50 * 60_000, 12_048_000),
    "celebahq": (50 * 30_000, 12_048_000),
    "lsun_bedroom": (50 * 3_033_042, 12_048_000),
    "lsun_church": (50 * 126_227, 12_048_000),
}


def scaling(on: Subject) -> Figures:
    """Return seconds by size of everything that a cost grows with, exponents, and card hours of published sizes."""
    costs: dict[str, dict[int, float]] = {
        "images": {count: fastest(sampled(on, count, 10)) for count in (32, 64, 128)},
        "timesteps": {steps: fastest(sampled(on, 64, steps)) for steps in (5, 10, 20)},
        "pixels": {size * size: fastest(sampled(sized(on, size), 32, 4)) for size in (16, 32, 64)},
        "jobs": {count: sweep(count, "forked") for count in (2, 4, 8)},
        "processes": {count: shared(count) for count in (1, 2, 4)},
    }
    metrics = {f"{name}/{size}": took for name, found in costs.items() for size, took in found.items()}
    metrics |= {f"{name}_exponent": exponent(found) for name, found in costs.items()}
    return Figures(on.config | {"cores": os.cpu_count()}, metrics | published())


def sampled(on: Subject, images: int, steps: int) -> Callable[[], float]:
    """Return what samples and gives the seconds that it took."""
    rate = drawn(on, on.suspect(), images, steps)
    return lambda: images * steps / rate()


def sized(on: Subject, size: int) -> Subject:
    """Return the same network for images of another size."""
    return Subject(on.name, on.device, on.precision, on.schedule, (on.shape[0], size, size), on.arguments)


def fastest(work: Callable[[], float]) -> float:
    """Return the least seconds of some rounds, after one that does not count."""
    work()
    return min(work() for _ in range(ROUNDS))


def exponent(costs: dict[int, float]) -> float:
    """Return the slope of log(seconds) over log(size), by least squares."""
    points = [(math.log(size), math.log(took)) for size, took in costs.items()]
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def shared(count: int) -> float:
    """Return the seconds in which `count` processes draw the same samples, a thread each."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*TINY, "model.unet.block_out_channels=[16,64,64]", "sample.count=256", "sample.batch_size=16",
                 "sample.steps=20", "train.batch_size=16", f"paths.outputs={folder}"]  # fmt: skip
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "--rdzv-backend=c10d",
                  "--rdzv-endpoint=localhost:0", "-m", "bdiff", "run", *words]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(launch, check=True, capture_output=True, cwd=ROOT, env=environment)
        (path,) = Path(folder).glob("runs/*/*/metrics.json")
        return float(json.loads(path.read_text())["seconds"]["sample"])


def published() -> dict[str, float]:
    """Return card hours of training and sampling at the published sizes, and what of them eight cards would take."""
    found: dict[str, float] = {}
    rate = PUBLISHED * 3 * forward("cifar10")  # operations a second
    for data, (rows, image_steps) in SIZES.items():
        one = forward(data)
        hours = {"training": rows * 3 * one / rate / 3600, "sampling": image_steps * one / rate / 3600}
        found |= {f"published/{data}/{what}_hours": took for what, took in hours.items()}
        found |= {f"published/{data}/gflop_forward": one / 1e9}
        found |= {f"published/{data}/hours_on_8": sum(hours.values()) / 8}
    return found


def forward(data: str) -> float:
    """Return the operations of an image's way through the network of a dataset, counted without computing them."""
    (config,) = composed([f"data={data}", "model.pretrained=null"], False)
    with torch.device("meta"):
        net = UNet2DModel(**without(config.model.unet, "_target_"))
        x = torch.zeros(1, config.data.channels, config.data.size, config.data.size)
        return float(operations(net, x, torch.zeros(1)))


def draw(source: Path, target: Path) -> None:
    """Draw seconds over size, with the fitted exponents."""
    from matplotlib import pyplot as plt

    metrics = json.loads(source.read_text())["metrics"]
    figure, axes = plt.subplots(1, len(GROWS), figsize=(3 * len(GROWS), 2.8), layout="constrained")
    for axis, name in zip(axes, GROWS, strict=True):
        found = {int(key.partition("/")[2]): took for key, took in metrics.items() if key.startswith(f"{name}/")}
        found = dict(sorted(found.items()))
        axis.loglog([*found], [*found.values()], "o-", base=2)
        axis.set(xlabel=name, title=f"exponent {metrics[f'{name}_exponent']:.2f}")
        axis.set_xticks([*found], [*map(str, found)])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    draw(ROOT / "results" / "bench" / "scaling.json", ROOT / "docs" / "scaling.png")
