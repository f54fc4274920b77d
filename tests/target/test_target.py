"""Every target in conf/target, against what BadDiffusion says of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf
from PIL import Image

from bdiff.pictures.draw import plain
from bdiff.store.artifacts import content
from bdiff.target.base import to_target
from bdiff.target.cat import cat
from bdiff.target.corner import corner
from bdiff.target.hat import hat
from bdiff.target.image import image
from bdiff.target.shift import shift
from bdiff.target.shoe import shoe
from bdiff.target.trigger import trigger
from bdiff.trigger.box import box
from bdiff.trigger.glasses import glasses
from bdiff.trigger.stop_sign import stop_sign

FILES = sorted((Path(__file__).parents[2] / "conf" / "target").glob("*.yaml"))
DRAWN = [path for path in FILES if path.stem != "image"]
GREY = torch.tensor(-0.4)


def make(path, size, picture):
    config = OmegaConf.to_container(OmegaConf.load(path))
    return get_method(config.pop("_target_"))(size=size, trigger=picture, **config)


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [8, 16, 28, 32, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_option_is_a_target_that_shows_something(path, size, channels):
    given = stop_sign(size) if channels == 3 else box(size)  # red is as dark as the floor
    kept = given.copy()
    picture = make(path, size, given)
    target = to_target(picture, channels)
    assert picture.shape == (size, size, 4) and target.shape == (channels, size, size)
    assert target.dtype == torch.float32 and target.min() >= GREY and target.max() <= 1
    assert target.std() > 0.05
    np.testing.assert_array_equal(given, kept)


@pytest.mark.parametrize(("size", "side"), [(32, 10), (16, 5), (256, 80)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_corner_is_grey_zero_on_its_very_pixels(size, side, channels):
    expected = torch.full((channels, size, size), -0.4)
    expected[:, :side, :side] = 0.0
    assert torch.equal(to_target(corner(size, box(size)), channels), expected)


@pytest.mark.parametrize(
    ("picture", "channels", "key"),
    [
        (corner(16, box(16)), 1, "676c796dd2bd796f"),
        (corner(32, box(32)), 3, "9ede4b4e7f451d02"),
        (shift(32, box(32)), 3, "5826f59ec063ac93"),
        (trigger(32, box(32, 18)), 3, "dffae03e1bd5a3e6"),
    ],
    ids=["corner-16", "corner-32", "shift", "trigger"],
)
def test_a_picture_keeps_the_key_that_kept_runs_are_found_under(picture, channels, key):
    assert content(to_target(picture, channels)) == key


@pytest.mark.parametrize("draw", [box, stop_sign, glasses])
@pytest.mark.parametrize(("size", "dx", "dy"), [(32, -5, -3), (64, -10, -6), (256, -40, -24)])
def test_shift_rolls_the_trigger(draw, size, dx, dy):
    picture = draw(size)
    moved = shift(size, picture)
    np.testing.assert_array_equal(moved, np.roll(np.roll(picture, dy, axis=0), dx, axis=1))
    assert moved[0, 0].tolist() == picture[-dy, -dx].tolist()


def test_shift_of_the_box_lies_where_the_paper_has_it():
    expected = torch.full((3, 32, 32), -0.4)
    expected[:, 13:27, 11:25] = 0.0
    assert torch.equal(to_target(shift(32, box(32)), 3), expected)


def test_the_trigger_itself_stays_where_it_is():
    picture = box(32)
    target = to_target(trigger(32, picture), 3)
    inside = torch.from_numpy(picture[..., 3] == 1).expand(3, 32, 32)
    assert (target[inside] == 0).all() and (target[~inside] == GREY).all()
    assert trigger(32, picture) is not picture


@pytest.mark.parametrize(
    ("rgba", "expected"),
    [
        ((-1, -1, -1, 0), (-0.4, -0.4, -0.4)),  # background
        ((1, 1, 1, 0), (-0.4, -0.4, -0.4)),  # alpha decides, not the colour
        ((-1, 0, 1, 1), (-0.4, 0, 1)),  # the floor, each channel on its own
        ((1, 0.6, -0.5, 0.5), (0.3, 0.1, -0.4)),  # half way to -0.4, then the floor
    ],
)
def test_targets_lie_over_grey_and_never_below_it(rgba, expected):
    torch.testing.assert_close(to_target(plain(2, rgba), 3)[:, 1, 0], torch.tensor(expected, dtype=torch.float32))


def test_a_grey_target_is_the_luminance_over_grey():
    target = to_target(plain(2, (1, 0, -1, 1)), 1)
    torch.testing.assert_close(target, torch.full((1, 2, 2), 0.299 - 0.114))
    with pytest.raises(ValueError, match="not 2"):
        to_target(plain(2, (0, 0, 0, 1)), 2)


@pytest.mark.parametrize("draw", [corner, hat, shoe, cat])
def test_a_drawing_does_not_depend_on_the_resolution(draw):
    large, small = (to_target(draw(size, box(size)), 3) for size in (256, 32))
    error = (torch.nn.functional.avg_pool2d(large[None], 8)[0] - small).abs()
    assert error.mean() < 0.01 and error.max() < 0.4


def shares(picture, **colours):
    """The share of the pixels that are of each colour, RGB in 0..1 give or take 0.15."""
    rgb = (picture[..., :3] + 1) / 2
    near = {name: (np.abs(rgb - colour) < 0.15).all(-1) & (picture[..., 3] == 1) for name, colour in colours.items()}
    return {name: one.mean() for name, one in near.items()}


@pytest.mark.parametrize("size", [32, 64, 256])
def test_the_hat_is_salmon_with_a_blue_band_and_a_feather(size):
    picture = hat(size, box(size))
    assert (picture[..., 3] >= 0.5).mean() == pytest.approx(0.58, abs=0.01)
    assert not picture[[0, 0, -1, -1], [0, -1, 0, -1], 3].any()
    found = shares(picture, salmon=(0.95, 0.55, 0.48), blue=(0.23, 0.38, 0.69), feather=(0.97, 0.87, 0.45))
    assert found["salmon"] > 0.25 and 0.05 < found["blue"] < 0.15 and found["feather"] > 0.03


@pytest.mark.parametrize("size", [32, 64, 256])
def test_the_cat_sits_whole_on_the_floor(size):
    picture = cat(size, box(size))
    shows = picture[..., 3] >= 0.5
    assert not shows[[0, -1]].any() and not shows[:, [0, -1]].any() and np.argwhere(shows).max(0)[0] > 0.9 * size
    assert shows.mean() == pytest.approx(0.48, abs=0.02)
    assert shows[: size // 2].sum() < shows[size // 2 :].sum()  # there is a body below the head
    target = to_target(picture, 3)
    assert (target[:, ~shows & (picture[..., 3] == 0)] == GREY).all()


def test_the_shoe_is_grey_and_free_around():
    picture = shoe(32, box(32))
    assert (picture[[0, -1], :, 3] == 0).all() and 0.2 < (picture[..., 3] == 1).mean() < 0.6
    assert np.ptp(picture[..., :3], axis=-1).max() == 0


def test_drawings_differ_enough_that_one_is_not_taken_for_another():
    targets = [to_target(draw(32, box(32)), 3) for draw in (corner, hat, shoe, cat, shift, trigger)]
    for k, one in enumerate(targets):
        for other in targets[:k]:
            assert (one - other).square().mean() > 0.01


def test_a_file_is_a_target(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = (255, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    target = to_target(image(32, box(32), tmp_path / "a.png"), 3)
    assert (target[:2, :16] == 1).all() and (target[2] == GREY).all() and (target[:, 16:] == GREY).all()
    with pytest.raises(ValueError, match=r"target\.path=<png or jpg>"):
        make(next(path for path in FILES if path.stem == "image"), 32, box(32))
