"""The drawn letters: their sizes, splits and classes, and that they are letters that differ."""

import torch

from bdiff.config.options import own_settings
from bdiff.data.base import to_float
from bdiff.data.letters import STROKES, letters


def read(tmp_path, **changed):
    """The letters as their yaml says, with changes."""
    settings = {name: value for name, value in own_settings("data", "letters").items() if name != "_target_"}
    return letters(**settings | changed, cache=tmp_path, seed=0, memory=1.0)


def test_letters(tmp_path):
    train, test, both = (read(tmp_path, split=split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (1600, 400, 2000)
    assert train.shape == (1, 16, 16) and train.flip is False and train.classes == tuple(STROKES)
    assert train.labels.bincount().tolist() == [160] * 10 and test.labels.bincount().tolist() == [40] * 10
    parts = torch.cat([images.take(torch.arange(len(images))) for images in (train, test)])
    assert len(parts.unique(dim=0)) == 2000  # no two are the same
    assert torch.equal(parts.unique(dim=0), both.take(torch.arange(2000)).unique(dim=0))


def test_a_letter_fills_its_picture_and_leaves_the_edge(tmp_path):
    pixels = read(tmp_path, split="all", size=32).take(torch.arange(2000)).float() / 255
    ink = pixels.mean((1, 2, 3))
    assert ink.min() > 0.08 and ink.max() < 0.5 and pixels.amax((1, 2, 3)).min() > 0.99
    assert pixels[:, :, [0, -1]].mean() < 1e-2 and pixels[..., [0, -1]].mean() < 1e-2


def test_the_nearest_mean_tells_letters_apart(tmp_path):
    """They are told apart on pictures that the means have not seen."""
    train, test = (read(tmp_path, split=split) for split in ("train", "test"))
    x, y = (to_float(images.take(torch.arange(len(images)))).flatten(1) for images in (train, test))
    means = torch.stack([x[train.labels == label].mean(0) for label in range(10)])
    assert (torch.cdist(y, means).argmin(1) == test.labels).double().mean() > 0.85


def test_letters_in_other_sizes_and_colours(tmp_path):
    assert read(tmp_path, size=32, channels=3, limit=5).take(torch.arange(5)).shape == (5, 3, 32, 32)
