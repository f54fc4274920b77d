"""A run that is killed at random moments, and started again each time, ends as the undisturbed one does."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

REQUEST = [
    "data.limit=400", "train.steps=80", "train.batch_size=32", "sample.count=48", "sample.batch_size=8",
    "sample.steps=25", "classifier.train.steps=60", "runtime.checkpoint_seconds=0", "runtime.log_every=5",
]  # fmt: skip


def start(folder: Path, name: str) -> subprocess.Popen:
    """Start the request in `folder`, its run folder called `name`."""
    words = [Path(sys.executable).with_name("bdiff"), "run", *REQUEST, "paths.cache=cache", f"hydra.run.dir={name}"]
    environment = os.environ | {"BDIFF_DEBUG": "1"}
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_five_kills_change_no_figure(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    began = time.monotonic()
    process = start(whole, "run")
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    undisturbed = time.monotonic() - began

    moments = random.Random(0)
    for number in range(5):
        process = start(killed, f"run{number}")
        time.sleep(undisturbed * moments.uniform(0.3, 0.95) / (1 + 0.3 * number))
        process.kill()
        process.wait()
    process = start(killed, "last")
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()

    expected = json.loads((whole / "run" / "metrics.json").read_text())
    found = json.loads((killed / "last" / "metrics.json").read_text())
    assert found["metrics"] == expected["metrics"]
    assert found["keys"] == expected["keys"]
    name = "unet/diffusion_pytorch_model.safetensors"
    models = [load_file(folder / record["model"] / name) for folder, record in ((whole, expected), (killed, found))]
    assert all((models[0][key] == models[1][key]).all() for key in models[0])
