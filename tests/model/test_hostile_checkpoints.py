"""Files that would run code when unpickled: each is refused in one line, and the code does not run."""

import hashlib
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from toys import LOOP, unet

from bdiff.cli import main as cli
from bdiff.common.errors import RequestError, RunError
from bdiff.diffusion.checkpointer import Checkpointer
from bdiff.metric.fid.inception import InceptionFeatures
from bdiff.model import checkpoint

WEIGHTS = "diffusion_pytorch_model"


class Code:
    """Makes the file `mark` when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "the code ran"


WAYS = {
    "torch.save": lambda code, path: torch.save({"conv_in.weight": code}, path),
    "torch.save, old format": lambda code, path: torch.save(code, path, _use_new_zipfile_serialization=False),
    "protocol 0": lambda code, path: path.write_bytes(pickle.dumps(code, 0)),
    "protocol 2": lambda code, path: path.write_bytes(pickle.dumps(code, 2)),
    "protocol 5": lambda code, path: path.write_bytes(pickle.dumps(code, 5)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_code_of_each_file_would_run_if_it_were_unpickled(way, mark, tmp_path):
    """The tests below mean something: torch's own default of former days runs all of these."""
    WAYS[way](Code(mark), tmp_path / "file.bin")
    with suppress(RuntimeError, pickle.UnpicklingError):  # a bare pickle is no file of torch's, but is begun with
        torch.load(tmp_path / "file.bin", weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("folder", ["", "unet"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_with_code_in_it(way, folder, mark, tmp_path):
    home = tmp_path / "checkpoint"
    unet().save_config(home / folder)
    WAYS[way](Code(mark), home / folder / f"{WEIGHTS}.bin")
    with pytest.raises(RequestError, match="is not unpickled, as it does not hold only tensors") as caught:
        checkpoint.load(home)
    assert str(caught.value).startswith(f"the checkpoint {home} ") and len(str(caught.value).splitlines()) == 1
    assert "safetensors" in str(caught.value)
    assert not mark.exists()


def test_a_run_from_such_a_checkpoint_is_a_wrong_request(mark, tmp_path, capsys):
    home = tmp_path / "checkpoint"
    small = unet()
    small.register_to_config(sample_size=16)
    small.save_config(home / "unet")
    WAYS["torch.save"](Code(mark), home / "unet" / f"{WEIGHTS}.bin")
    words = [f"model.pretrained={home}", f"paths.outputs={tmp_path}/out", f"paths.cache={tmp_path}/cache"]
    assert cli.command(["run", *words, f"hydra.run.dir={tmp_path}/run", "runtime.device=cpu"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("bdiff: "))
    assert "calls for posix.mkdir, which could run code" in line
    assert not mark.exists()


def test_tensors_in_a_bin_are_read(tmp_path):
    expected = unet()
    expected.save_config(tmp_path)
    torch.save(expected.state_dict(), tmp_path / f"{WEIGHTS}.bin")
    torch.manual_seed(1)
    found = checkpoint.load(tmp_path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())


def test_safetensors_come_before_a_bin_beside_them(mark, tmp_path):
    expected = unet()
    expected.save_pretrained(tmp_path)
    WAYS["torch.save"](Code(mark), tmp_path / f"{WEIGHTS}.bin")
    found = checkpoint.load(tmp_path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
    assert not mark.exists()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_inception_weights_with_code_in_them(way, mark, tmp_path):
    """Even where the user accepts the file's hash."""
    path = tmp_path / "weights.pth"
    WAYS[way](Code(mark), path)
    with pytest.raises(RequestError, match="is not unpickled, as it does not hold only tensors") as caught:
        InceptionFeatures(str(path), hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    assert len(str(caught.value).splitlines()) == 1
    assert not mark.exists()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_training_state_with_code_in_it(way, mark, tmp_path):
    model = unet()
    state = Checkpointer(tmp_path, model, torch.optim.Adam(model.parameters()), None, LOOP.keep)
    state.save(3)
    state.wait()
    WAYS[way](Code(mark), tmp_path / "state" / "00000004.pt")
    with pytest.raises(RunError, match=r"00000004\.pt is not unpickled, as it does not hold only tensors"):
        state.load(torch.device("cpu"))
    assert not mark.exists()
