"""Pictures of 256 px that do not fit in memory: a run of each layout, killed and resumed, at bounded memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from data_archives import encode, noise, write, zip_folder
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "scripts" / "standin.py"
FEW, MANY = 500, 2000  # of which the measures take batches of 256
#: MiB that a run over MANY pictures may take more than one over FEW, whose peaks vary by 90; decoded, MANY are 281 more
APART = 140

#: ddpm256 made narrow, in as many levels; every picture is decoded once for the data's own rate of hits
NARROW = [
    "tracker=none", "model=ddpm256", "model.unet.block_out_channels=[8,8,8,8,16,16]", "model.unet.norm_num_groups=4",
    "model.unet.layers_per_block=1", "train.steps=6", "train.batch_size=4", "sample.count=4", "sample.batch_size=4",
    "sampler=ddim", "sample.steps=2", "metric/fid=none", "runtime.memory=0", "runtime.recompute=true",
    "runtime.micro_batch=2", "runtime.threads=1", "runtime.compile=false", "runtime.log_every=1",
    "runtime.checkpoint_seconds=0", "paths.cache=cache",
]  # fmt: skip


class Run(NamedTuple):
    """A run that has ended by itself."""

    record: dict  # its metrics.json
    log: str
    peak: float  # MiB, of the largest of its processes


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[int, Path]:
    """Stand-ins of CelebA-HQ and LSUN made of generated pictures, by their number of pictures."""
    home = tmp_path_factory.mktemp("streams")
    for number, pixels in enumerate(noise(40, 32, 32, 3)):
        write(home / "small" / f"{number:02}.png", encode(pixels))
    small = zip_folder(home / "small", home / "small.zip")
    for count in (FEW, MANY):
        words = [sys.executable, SCRIPT, small, home / str(count), "--count", str(count)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return {count: home / str(count) for count in (FEW, MANY)}


def start(folder: Path, name: str, *words: str) -> subprocess.Popen:
    """Start a run in `folder`, its run folder called `name`."""
    command = [Path(sys.executable).with_name("bdiff"), "run", *NARROW, *words, f"hydra.run.dir={name}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("w") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=output, stdout=output)


def finished(folder: Path, name: str, *words: str) -> Run:
    """Carry out a run in `folder`."""
    process = start(folder, name, *words)
    _, status, usage = os.wait4(process.pid, 0)  # the usage of the process and of those it has waited for
    log = (folder / f"{name}.log").read_text()
    assert status == 0, log[-2000:]
    return Run(json.loads((folder / name / "metrics.json").read_text()), log, usage.ru_maxrss / 1024)


def killed(folder: Path, *words: str) -> int:
    """Start a run, kill it once it has kept a checkpoint, and return that one's step."""
    process = start(folder, "killed", *words)
    while not (kept := sorted(folder.glob("outputs/train/*/state/*.pt"))):
        assert process.poll() is None, (folder / "killed.log").read_text()[-2000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return int(kept[-1].stem)


@pytest.mark.parametrize("data", ["celebahq", "lsun_bedroom"])
def test_a_run_takes_no_more_memory_for_four_times_as_many_pictures(data, places, tmp_path):
    runs = {}
    for count, path in places.items():
        runs[count] = finished(tmp_path, f"of-{count}", f"data={data}", f"data.path={path}")
        assert f"{count} images do not fit in 0 GiB and are decoded on demand" in runs[count].log
        assert f"{count} of the {count}" in runs[count].record["protocol"]["false_trigger"]["data"]
    print(f"\n{data}: " + ", ".join(f"{run.peak:.0f} MiB for {count} pictures" for count, run in runs.items()))
    assert runs[MANY].peak < runs[FEW].peak + APART
    assert not list(tmp_path.glob("cache/data/*/pixels.npy"))


@pytest.mark.parametrize("data", ["celebahq", "lsun_bedroom"])
def test_a_killed_run_over_streamed_pictures_ends_as_an_undisturbed_one(data, places, tmp_path):
    words = [f"data={data}", f"data.path={places[FEW]}"]
    step = killed(tmp_path, *words, "train.steps=20")
    resumed = finished(tmp_path, "resumed", *words, "train.steps=20")
    assert 0 < step < 20 and "resuming from step" in resumed.log
    undisturbed = finished(tmp_path, "undisturbed", *words, "train.steps=20", "paths.outputs=elsewhere")
    assert resumed.record["metrics"] == undisturbed.record["metrics"]
    models = [load_file(tmp_path / run.record["model"] / "unet/diffusion_pytorch_model.safetensors")
              for run in (resumed, undisturbed)]  # fmt: skip
    assert all(torch.equal(models[0][name], weight) for name, weight in models[1].items())
