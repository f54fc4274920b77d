"""A dataset of a third party is one module, and the yaml that names it: nothing of bdiff is edited for it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_archives import write
from tiny import TINY

from bdiff.cli import main as cli
from bdiff.common.errors import RequestError
from bdiff.config import instantiate
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make

MODULE = '''
"""Stripes: eight shades of rows and columns."""

import numpy as np

from bdiff.data.dataset import Dataset, Home
from bdiff.data.sources import bundled


def read(split):
    shades = np.linspace(60, 255, 8 if split == "train" else 4).astype(np.uint8)
    across = np.zeros((len(shades), 8, 8), np.uint8)
    across[:, ::2] = shades[:, None, None]
    labels = np.repeat([0, 1], len(shades))
    return np.concatenate([across, across.transpose(0, 2, 1)]), labels, ("across", "along")


stripes = Dataset("stripes", home=Home((), origin="its own module"), official=bundled("stripes", read))
faces = Dataset("faces", home=Home(("faces",), origin="a friend"), inside=("pictures",))
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the repository with the module, whose datasets a config may name."""
    write(tmp_path / "third_party_stripes.py", MODULE.encode())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BDIFF_CACHE", str(tmp_path / "cache"))
    names = {f"third_party_stripes.{name}" for name in ("stripes", "faces")}
    known = instantiate.ours() | names
    monkeypatch.setattr(instantiate, "ours", lambda: known)
    yield tmp_path
    sys.modules.pop("third_party_stripes", None)


def request(name: str, *words: str):
    """The config of a request for a dataset of the plugin."""
    (config,) = jobs(["data=digits", f"data._target_=third_party_stripes.{name}", *words], multirun=False)
    return config


def test_it_is_loaded_as_bdiffs_own_are(plugin):
    config = request("stripes", "data.size=16")
    images = make(config.data, cache=plugin / "cache", seed=0, memory=1.0)
    assert (images.name, len(images), images.shape, images.classes) == ("stripes", 16, (1, 16, 16), ("across", "along"))
    assert images.labels.bincount().tolist() == [8, 8]
    pixels = images.take(torch.arange(16))
    assert torch.equal(pixels[:8].mT, pixels[8:])
    again = make(config.data, cache=plugin / "cache", seed=0, memory=1.0)
    assert again.fingerprint == images.fingerprint and len(list((plugin / "cache" / "data").glob("*/"))) == 1
    test = make(request("stripes", "data.split=test").data, cache=plugin / "cache", seed=0, memory=0)
    assert len(test) == 8


def test_pictures_of_a_home_and_of_a_path(plugin, animals):
    with pytest.raises(RequestError, match=r"faces was not found.*get it from a friend.*cache/faces"):
        make(request("faces").data, cache=plugin / "cache", seed=0, memory=1.0)
    (plugin / "cache").mkdir(exist_ok=True)
    animals.rename(plugin / "cache" / "faces")
    at_home = make(request("faces").data, cache=plugin / "cache", seed=0, memory=1.0)
    (plugin / "copy").mkdir()
    (plugin / "cache" / "faces").rename(plugin / "copy" / "pictures")
    by_path = make(request("faces", f"data.path={plugin}/copy").data, cache=plugin / "cache", seed=0, memory=1.0)
    assert at_home.classes == by_path.classes == ("cat", "dog")
    assert at_home.fingerprint == by_path.fingerprint


def test_bdiff_data_makes_it_ready(plugin, capsys):
    words = ["digits", "data._target_=third_party_stripes.stripes"]
    assert cli.command(["data", "prepare", *words]) == 0
    out = capsys.readouterr().out
    assert "16 of 1x16x16" in out and "2 of 8 images: across, along" in out
    assert cli.command(["data", "verify", *words]) == 0
    assert "ok, 16 images" in capsys.readouterr().out


def test_a_run_trains_on_it(plugin):
    """Its pictures go through training, sampling and measuring like any others'."""
    words = [*TINY, "data=digits", "data._target_=third_party_stripes.stripes", "data.limit=null", "tracker=none"]
    words += [f"paths.outputs={plugin}/outputs", f"hydra.run.dir={plugin}/run", "sample.count=4", "sample.triggered=4"]
    assert cli.command(["run", *words]) == 0
    assert np.isfinite(json.loads((plugin / "run" / "metrics.json").read_text())["metrics"]["suspect/mse"])
