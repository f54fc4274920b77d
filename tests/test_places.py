"""What a request names on the disk: pipes and devices are never opened, impossible folders are reported at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_archives import encode, noise, write
from omegaconf import OmegaConf

from bdiff.classifier.weights import load_weights
from bdiff.common import places
from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.config.validate import value_problem
from bdiff.data.check import problems
from bdiff.data.files import Folder
from bdiff.metric.check import file_problems
from bdiff.metric.fid import moments
from bdiff.model.check import problems as model_problems
from bdiff.pictures.draw import load
from bdiff.store.integrity import fault

BDIFF = Path(sys.executable).with_name("bdiff")
PIPE = "is a pipe or device, not a file"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_folder_without_permission_is_said_to_be_so_before_anything_is_written(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(places.os, "access", lambda place, mode: asked.append(place))  # a superuser may write anywhere
    assert places.unwritable(tmp_path / "new/inner") == f"cannot be written: there is no permission for {tmp_path}"
    assert asked == [tmp_path] and "is a file" in (places.unwritable(Path(__file__) / "new") or "")
    monkeypatch.undo()
    assert places.unwritable(tmp_path / "new") is None


@pytest.mark.parametrize("option", ["trigger.path", "target.path"])
def test_a_picture_is_not_read_from_a_pipe(option, pipe):
    with pytest.raises(ValueError, match=f"cannot load {option}={pipe}: it {PIPE}"):
        load(pipe, 16, option)


def test_data_are_not_read_from_a_pipe_or_a_device(pipe):
    for path in (pipe, Path("/dev/zero")):
        (line,) = problems(str(path))
        assert f"data.path={path} {PIPE}" in line


def test_pipes_among_pictures_are_counted_and_left_out(pipe):
    write(pipe.parent / "a" / "1.png", encode(noise(8, 8)))
    os.mkfifo(pipe.parent / "dataset.json")
    os.mkfifo(pipe.parent / "data.mdb")
    source = Folder(pipe.parent, "all")
    assert source.labelled[1] == ("a",) and "1 broken links or pipes" in source.left_out
    assert problems(str(pipe.parent)) == []


def test_weights_and_statistics_are_not_read_from_a_pipe(pipe):
    fid = {"weights": str(pipe), "reference": str(pipe), "_target_": "x"}
    message = file_problems({"fid": fid, "also": [], "lpips_weights": str(pipe)}, 32)
    assert len(message) == 3 and all(f"={pipe} {PIPE}" in line for line in message)
    with pytest.raises(RequestError, match=PIPE):
        load_weights(None, str(pipe), "classifier.weights")
    with pytest.raises(RequestError, match=PIPE):
        moments.read(pipe)
    assert PIPE in (fault(pipe) or "")


@pytest.mark.parametrize(
    "name", ["config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-00002-of-2.bin",
             "scheduler_config.json", "scheduler/scheduler_config.json"],
)  # fmt: skip
def test_a_checkpoint_is_not_read_from_a_pipe(name, tmp_path):
    write(tmp_path / "unet" / "config.json", b"{}")
    home = tmp_path if "scheduler" in name else tmp_path / "unet"
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).unlink(missing_ok=True)
    os.mkfifo(home / name)
    unet = {"in_channels": 3, "out_channels": 3, "sample_size": 32}
    message = model_problems(str(tmp_path), unet, {})
    assert any(PIPE in line or "holds no UNet config.json" in line for line in message)


@pytest.mark.parametrize("key", ["paths.outputs", "paths.cache", "hydra.run.dir", "hydra.sweep.dir"])
def test_folders_that_cannot_be_are_reported(key, tmp_path):
    write(tmp_path / "file", b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path, message in {
        f"{tmp_path}/file": f"{tmp_path}/file is a file",
        "/dev/null/x": "/dev/null is a file",
        f"{tmp_path}/link/x": "link is a broken link",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(RequestError, match="cannot be a folder") as caught:
            jobs([f"{key}={path}"], multirun=False)
        (line,) = caught.value.problems
        assert line.startswith(f"{key}={path[:100]}") and message in line and len(line) < 400


def test_folders_that_are_not_there_yet_are_fine(tmp_path):
    assert places.no_folder(tmp_path / "a" / "b") is None and places.no_folder(Path("outputs")) is None


def test_a_long_name_is_reported_and_cut():
    with pytest.raises(RequestError) as caught:
        jobs([f"name={'x' * 300}"], multirun=False)
    (line,) = caught.value.problems
    assert line.startswith("name=xxx") and "... is no" in line and len(line) < 200
    config = OmegaConf.create({"name": "x" * 200})
    assert value_problem("name", config, config) is None


def test_a_folder_that_is_gone_is_reported(tmp_path):
    code = f"mkdir gone && cd gone && rmdir ../gone && {BDIFF} run --cfg job; echo $?; {BDIFF} --version"
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (
        done.stdout.startswith("2\nbdiff ")
        and done.stderr == "bdiff: the current folder does not exist any more: cd to another\n"
    )


def test_pillow_says_nothing_of_pictures_and_its_objects_are_not_reported(tmp_path):
    write(tmp_path / "bad" / "1.png", b"no picture")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0" + b"\x12\x01\x03\0"
    code = (
        "import sys, io\nfrom pathlib import Path\nfrom PIL import Image\nfrom bdiff.data.files import Folder\n"
        f"root = Path({str(tmp_path)!r})\n(root / 'a').mkdir()\n"
        f"Image.new('RGB', (8, 8)).save(root / 'a' / '1.jpg', exif={exif!r})\n"
        "Folder(root / 'a', 'all').pixels(0, 8, 3)\n"
        "try: Folder(root / 'bad', 'all').pixels(0, 8, 3)\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.endswith("picture 1.png cannot be read (cannot identify image file): replace or remove it\n")
