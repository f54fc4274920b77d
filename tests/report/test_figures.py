"""Pictures of a run: pixels as they are, sheets see-through between images, states under their timesteps."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdiff.report import figures


def pixels(count: int, channels: int, size: int) -> torch.Tensor:
    """Random images without pure white, uint8 (count, channels, size, size)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(250, (count, channels, size, size), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_shows_every_pixel_as_a_square(tmp_path, channels):
    (image,) = pixels(1, channels, 16)
    figures.picture(tmp_path / "one.png", image, side=384)
    found = np.asarray(Image.open(tmp_path / "one.png"))
    assert found.shape == (384, 384, 3)
    expected = np.kron(image.numpy().transpose(1, 2, 0), np.ones((24, 24, 1), np.uint8))
    assert (found == expected).all()


@pytest.mark.parametrize(("size", "columns", "gap"), [(16, 8, 1), (64, 8, 4), (256, 4, 16)])
def test_a_sheet_holds_the_first_images_in_their_order(tmp_path, size, columns, gap):
    images = pixels(70, 1, size)
    figures.sheet(tmp_path / "sheet.png", images, side=10)
    found = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert found.shape == (columns * (size + gap) - gap,) * 2 + (4,)
    for place, image in enumerate(images[: columns**2]):
        top, left = place // columns * (size + gap), place % columns * (size + gap)
        cell = found[top : top + size, left : left + size]
        assert (cell[..., :3] == image.numpy().transpose(1, 2, 0)).all()
        assert (cell[..., 3] == 255).all()
    assert (found[..., 3] == 0).sum() == found[..., 3].size - columns**2 * size**2


def test_a_sheet_of_few_images_has_no_empty_columns(tmp_path):
    figures.sheet(tmp_path / "sheet.png", pixels(3, 3, 16), side=50)
    assert Image.open(tmp_path / "sheet.png").size == (3 * 17 - 1, 16)


def test_a_trajectory_names_the_timestep_of_each_state(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    states = {"triggered": pixels(3, 1, 8), "clean": pixels(3, 1, 8).flip(0)}
    figures.trajectory(tmp_path / "trajectory.png", [19.0, 9.5], states)
    boxes = np.reshape(drawn[0].axes, (2, 3))
    assert [box.get_title() for box in boxes[0]] == ["t = 19", "t = 9.5", "result"]
    for row, (name, images) in zip(boxes, states.items(), strict=True):
        assert row[0].get_ylabel() == name
        for box, image in zip(row, images, strict=True):
            assert (box.images[0].get_array()[..., :1] == image.numpy().transpose(1, 2, 0)).all()


def test_a_histogram_of_scores_has_all_of_them_in_the_same_bins_and_the_threshold(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path, dpi: drawn.append(figure))
    scores = {"clean": [0.0, 0.1, 1.0], "triggered": [1.0, 5.0]}
    figures.score_histogram(tmp_path / "scores.png", "a title", scores, 1.5)
    (axes,) = drawn[0].axes
    for values, bars in zip(scores.values(), axes.containers, strict=True):
        held = [bar.get_height() for bar in bars]
        ends = bars[0].get_x(), bars[-1].get_x() + bars[-1].get_width()
        assert sum(held) == len(values) and ends == pytest.approx((0, 5), abs=1e-6)
    assert axes.lines[0].get_xdata() == [1.5, 1.5]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"threshold", "clean", "triggered"}


def test_the_backend_of_pyplot_is_left_to_a_notebook():
    sources = {path.name: path.read_text() for path in Path(figures.__file__).parents[1].rglob("*.py")}
    assert len(sources) > 100
    assert [name for name, text in sources.items() if re.search(r"import.*pyplot|matplotlib\.use", text)] == []
