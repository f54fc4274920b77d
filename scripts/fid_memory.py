"""Peak memory of measuring 5,000 and 50,000 samples of 32x32, each in its own process: it should be the same.

Uses the code of a run (bdiff.pipeline.measure over sample files on disk), with noise as samples. Without a GPU the
features are from a stub with Inception's 2,048 dimensions; with one they are from pytorch-fid's network with random
weights.

    python scripts/fid_memory.py [count ...]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench.fid import random_inception
from safetensors.torch import save_file
from torch import Tensor

from bdiff.config.compose import jobs
from bdiff.diffusion.sampling import shard_path
from bdiff.metric.fid.base import Features
from bdiff.pipeline.experiment import build_experiment
from bdiff.pipeline.measure import Measuring, distance_to_reference, measure
from bdiff.tracker.none import NoTracker

BATCH = 250


class Stub(Features):
    """A random projection of the pixels to as many features as Inception has."""

    suffix = "_stub"
    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(3 * 32 * 32, self.num_features) / 55)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1).float() / 255 @ self.matrix

    def logits(self, activations: Tensor) -> Tensor:
        return activations

    def identity(self) -> dict[str, Any]:
        return {"extractor": "stub"}


def one(count: int) -> dict[str, Any]:
    """Measure `count` samples in this process and return the cost."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [f"paths.outputs={scratch}", "data.size=32", "data.channels=3", f"sample.count={count}"]
        words += [
            f"sample.batch_size={BATCH}",
            "metric.fid.protocol=pytorch_fid",
            "metric.also=[secret]",
            "name=memory",
        ]
        if torch.cuda.is_available():
            random_inception(Path(scratch) / "weights.pth")
            words += ["metric/fid=inception", f"metric.fid.weights={scratch}/weights.pth", "metric.fid.sha256=''"]
        (config,) = jobs(words, multirun=False)
        run = build_experiment(config, NoTracker())
        features = (run.measures.features or Stub()).to(run.stages.device).eval()
        samples = run.stages.stage("sample", noise=count)
        for start in range(0, count, BATCH):
            noise = torch.randint(256, (2, min(BATCH, count - start), 3, 32, 32), dtype=torch.uint8)
            path = shard_path(samples.folder / "shards", start)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"clean": noise[0].clone(), "triggered": noise[1].clone()}, path)
        began = time.monotonic()
        distance = distance_to_reference(run.stages, features, run.data, None, config.metric, count)
        target, key = run.pictures.target, run.pictures.keys["target"]
        how = Measuring(config.metric, config.sample, target, key, True, [], distance, None)
        measured = measure(run.stages, samples, how)
        assert measured["protocol"][f"fid{features.suffix}"]["sample_count"] == count
    return {
        "count": count,
        "features": type(features).__name__,
        "resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "device_mib": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Print the peak of each count as a line of json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, default=[5_000, 50_000])
    parser.add_argument("--here", action="store_true", help="measure in this process; takes one count")
    options = parser.parse_args()
    for count in options.counts:
        if options.here:
            print(json.dumps(one(count)))
        else:
            subprocess.run([sys.executable, __file__, "--here", str(count)], check=True)


if __name__ == "__main__":
    main()
