"""Our FID and pytorch-fid's own command line, over the same PNG files and the same weights file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdiff.metric.fid import moments
from bdiff.metric.fid.base import Frechet
from bdiff.metric.fid.inception import InceptionFeatures


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Two folders of a few smooth pictures, dark and light."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, least in (("dark", 0), ("light", 90)):
        (root / name).mkdir()
        for number in range(6):
            small = Image.fromarray(draw.integers(least, least + 160, (4, 4, 3), dtype=np.uint8))
            small.resize((32, 32), Image.Resampling.BICUBIC).save(root / name / f"{number}.png")
    return {name: root / name for name in ("dark", "light")}


@pytest.fixture(scope="module")
def features(weights) -> InceptionFeatures:
    return InceptionFeatures(str(weights[0]), weights[1][:8]).eval()


def pixels(folder: Path) -> torch.Tensor:
    """The PNG files of a folder, uint8 (B,3,H,W)."""
    return torch.stack([torch.tensor(np.asarray(Image.open(path))).permute(2, 0, 1) for path in folder.iterdir()])


def taken(features: InceptionFeatures, folder: Path) -> moments.Moments:
    """Our moments of a folder."""
    frechet = Frechet(features, torch.device("cpu"))
    frechet.feed(pixels(folder).split(4), real=True)
    return frechet.reference


def pytorch_fid(weights: Path, *words: str | Path) -> str:
    """What pytorch-fid's command line prints; its weights come from torch's hub cache."""
    words = (sys.executable, "-m", "pytorch_fid", *map(str, words), "--device", "cpu", "--num-workers", "0")
    env = os.environ | {"TORCH_HOME": str(weights.parents[2])}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_statistics_it_saves_are_ours(features, folders, weights, tmp_path):
    pytorch_fid(weights[0], "--save-stats", folders["dark"], tmp_path / "theirs.npz")
    theirs, ours = moments.read(tmp_path / "theirs.npz", 2048), taken(features, folders["dark"])
    assert (theirs.count, ours.count) == (None, 6)
    np.testing.assert_allclose(ours.mu, theirs.mu, rtol=1e-3)
    np.testing.assert_allclose(ours.sigma, theirs.sigma, rtol=1e-3, atol=1e-3 * np.abs(theirs.sigma).max())


@pytest.mark.slow
def test_its_command_line_gives_our_distance(features, folders, weights, tmp_path):
    """Of two folders, and of a folder and our .npz: a matrix root of 2,048 rows in float64 takes it long."""
    frechet = Frechet(features, torch.device("cpu"))
    frechet.reference = taken(features, folders["dark"])
    frechet.feed([pixels(folders["light"])], real=False)
    ours = frechet.value()
    moments.write(tmp_path / "ours.npz", frechet.reference)
    for reference in (folders["dark"], tmp_path / "ours.npz"):
        message = pytorch_fid(weights[0], reference, folders["light"])
        assert float(message.removeprefix("FID:").split()[-1]) == pytest.approx(ours, rel=1e-3)
