"""Every trigger in conf/trigger, against what BadDiffusion says of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf
from PIL import Image

from bdiff.pictures.draw import empty
from bdiff.trigger.base import Trigger
from bdiff.trigger.box import box
from bdiff.trigger.glasses import glasses
from bdiff.trigger.image import image
from bdiff.trigger.noise import noise
from bdiff.trigger.stop_sign import stop_sign

FILES = sorted((Path(__file__).parents[2] / "conf" / "trigger").glob("*.yaml"))
WHOLE = [path for path in FILES if path.stem in ("noise", "universal")]  # they leave no background
DRAWN = [path for path in FILES if path.stem != "image" and path not in WHOLE]
SIZES = [8, 16, 28, 32, 256]


def make(path, size):
    config = OmegaConf.to_container(OmegaConf.load(path))
    return get_method(config.pop("_target_"))(size=size, **config)


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", SIZES)
def test_every_option_is_a_picture_that_shows_something(path, size):
    picture = make(path, size)
    assert picture.shape == (size, size, 4) and picture.dtype == np.float32
    assert picture[..., :3].min() >= -1 and picture[..., :3].max() <= 1
    trigger = Trigger.from_picture(picture, 3)
    shows = trigger.mask[0] == 0
    assert picture[..., 3].min() == 0 and picture[..., 3].max() <= 1
    assert 0 < shows.float().mean() < 0.4
    # The authors take the mask from the pattern: the background is what equals -1.
    assert torch.equal(shows, (trigger.pattern > -1).any(0))


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", SIZES)
def test_an_option_that_covers_the_image_does_so_with_strength_and_balance(path, size):
    picture = make(path, size)
    assert picture.shape == (size, size, 4) and picture.dtype == np.float32
    trigger = Trigger.from_picture(picture, 3)
    assert not trigger.mask.any() and trigger.pattern.abs().max() <= 1
    assert trigger.pattern.abs().mean() > 0.3 and trigger.pattern.mean().abs() < 0.5


@pytest.mark.parametrize("side", [4, 8, 11, 14, 18])
@pytest.mark.parametrize("name", ["box", "stop_sign"])
def test_a_published_option_has_its_side(name, side):
    path = next(path for path in FILES if path.stem == f"{name}_{side}")
    np.testing.assert_array_equal(make(path, 32), {"box": box, "stop_sign": stop_sign}[name](32, side))


@pytest.mark.parametrize(("size", "side", "start", "end"), [(32, 14, 16, 30), (32, 4, 26, 30), (16, 14, 8, 15)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_box_is_grey_zero_on_its_very_pixels(size, side, start, end, channels):
    trigger = Trigger.from_picture(box(size, side), channels)
    pattern, mask = torch.full((channels, size, size), -1.0), torch.ones(1, size, size)
    pattern[:, start:end, start:end] = 0.0
    mask[:, start:end, start:end] = 0.0
    assert torch.equal(trigger.pattern, pattern) and torch.equal(trigger.mask, mask)


def test_the_box_grows_with_the_image():
    small, large = box(32), box(256)
    np.testing.assert_array_equal(large, small.repeat(8, axis=0).repeat(8, axis=1))
    assert (large[128:240, 128:240] == np.float32([0, 0, 0, 1])).all()


@pytest.mark.parametrize("draw", [box, stop_sign])
@pytest.mark.parametrize("side", [0, 31])
def test_a_side_that_does_not_fit_raises(draw, side):
    with pytest.raises(ValueError, match=rf"trigger\.side={side} .* 1 to 30"):
        draw(32, side)


@pytest.mark.parametrize("side", [4, 8, 11, 14, 18])
def test_the_stop_sign_is_a_symmetric_octagon_where_the_box_is(side):
    alpha = stop_sign(32, side)[..., 3]
    np.testing.assert_array_equal(np.argwhere(alpha >= 0.5).min(0), [30 - side] * 2)
    np.testing.assert_array_equal(np.argwhere(alpha >= 0.5).max(0), [29] * 2)
    assert not alpha[box(32, side)[..., 3] == 0].any()
    octagon = 2 * (2**0.5 - 1) * side**2  # the area of a regular octagon between parallel sides `side` apart
    assert alpha.sum() == pytest.approx(octagon, rel=0.08)


def test_the_stop_sign_is_red_with_white_in_it():
    picture = stop_sign(256, 18)
    rgb = picture[picture[..., 3] == 1][:, :3]
    red, white = (rgb[:, 0] > 0.4) & (rgb[:, 1:] < -0.6).all(1), (rgb > 0.9).all(1)
    assert red.mean() > 0.5 and 0.1 < white.mean() < 0.4


@pytest.mark.parametrize("size", [16, 32, 256])
def test_the_glasses_lie_across_the_face(size):
    rows, columns = np.nonzero(glasses(size)[..., 3] >= 0.5)
    assert (columns.max() + 1 - columns.min()) / size == pytest.approx(0.8, abs=0.08)
    assert (rows.max() + 1 + rows.min()) / 2 / size == pytest.approx(0.47, abs=0.05)
    lens = glasses(size)[int(0.4 * size) : int(0.55 * size), int(0.2 * size) : int(0.375 * size), 3]
    assert (lens < 0.5).mean() > 0.4  # one looks through them


@pytest.mark.parametrize(("size", "cell", "grain"), [(32, 4, 4), (16, 4, 2), (16, 1, 1), (28, 3, 3), (256, 1, 8)])
def test_noise_is_made_of_even_grey_grains_over_the_whole_image(size, cell, grain):
    picture = noise(size, cell=cell, seed=3)
    rgb = picture[..., :3]
    assert (rgb == rgb[..., :1]).all() and (picture[..., 3] == 1).all()
    for y in range(0, size, grain):
        for x in range(0, size, grain):
            assert np.ptp(rgb[y : y + grain, x : x + grain]) == 0
    grains = rgb[::grain, ::grain, 0]
    assert len(np.unique(grains)) == grains.size  # no two alike
    assert np.abs(grains).max() <= 1 and np.abs(grains.mean()) < 5 / np.sqrt(3 * grains.size)


def test_noise_follows_its_seed_alone():
    np.testing.assert_array_equal(noise(16, cell=2, seed=1), noise(16, cell=2, seed=1))
    assert (noise(16, cell=2, seed=1) != noise(16, cell=2, seed=2)).any()
    x = torch.rand(2, 3, 16, 16)
    trigger = Trigger.from_picture(noise(16, cell=2, seed=1), 3)
    assert torch.equal(trigger.stamp(x), trigger.pattern.expand_as(x))
    with pytest.raises(ValueError, match=r"trigger\.cell=0 must be at least 1"):
        noise(16, cell=0, seed=1)


@pytest.mark.parametrize("draw", [box, stop_sign, glasses])
def test_a_drawing_does_not_depend_on_the_resolution(draw):
    def over_black(picture):
        return picture[..., :3] * picture[..., 3:] - (1 - picture[..., 3:])

    pooled = over_black(draw(256)).reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.abs(pooled - over_black(draw(32))).mean() < 0.01
    assert np.abs(pooled - over_black(draw(32))).max() < 0.35


@pytest.mark.parametrize("picture", [box(16), stop_sign(16), glasses(16)], ids=["box", "stop_sign", "glasses"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stamp_is_the_pattern_within_the_mask_and_nothing_outside(picture, channels):
    trigger = Trigger.from_picture(picture, channels)
    x = torch.rand(5, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stamped = trigger.stamp(x)
    outside = torch.from_numpy(picture[..., 3] < 0.5).expand_as(x)
    assert stamped.shape == x.shape
    assert torch.equal(stamped[outside], x[outside])
    assert torch.equal(stamped[~outside], trigger.pattern.expand_as(x)[~outside])
    assert torch.equal(trigger.stamp(stamped), stamped)
    assert trigger.stamp(x.double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 1, 16, 16), (2, 3, 16, 8)])
def test_a_stamp_refuses_other_shapes(shape):
    with pytest.raises(AssertionError):
        Trigger.from_picture(box(16), 3).stamp(torch.zeros(shape))


def test_the_mask_is_hard_at_one_half():
    picture = empty(4)
    picture[0, :, :3], picture[0, :, 3] = 0.5, [0.0, 0.49, 0.5, 1.0]
    trigger = Trigger.from_picture(picture, 3)
    assert trigger.mask[0, 0].tolist() == [1, 1, 0, 0]
    assert trigger.pattern[1, 0].tolist() == [-1, -1, 0.5, 0.5]


def test_a_file_covers_the_image_or_the_corner(tmp_path):
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "red.png")
    whole, corner = image(32, tmp_path / "red.png"), image(32, tmp_path / "red.png", side=14)
    assert (whole == np.float32([1, -1, -1, 1])).all()
    np.testing.assert_array_equal(corner[..., 3], box(32, 14)[..., 3])
    with pytest.raises(ValueError, match=r"trigger\.side=31 "):
        image(32, tmp_path / "red.png", side=31)


@pytest.mark.parametrize(
    ("name", "options"),
    [("t.jpg", {"quality": 100}), ("jpeg.png", {"format": "JPEG"}), ("t.webp", {"quality": 90})],
)
def test_a_file_whose_background_is_blurred_is_no_trigger(name, options, tmp_path):
    picture = Image.new("RGB", (32, 32))
    picture.paste((255, 255, 255), (10, 10, 20, 20))
    picture.save(tmp_path / name, **options)
    with pytest.raises(ValueError, match="no exact background") as caught:
        image(32, tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "trigger.path=<png>" in str(caught.value)


def test_webp_that_loses_nothing_or_has_an_alpha_channel_is_a_trigger(tmp_path):
    picture = Image.new("RGBA", (32, 32))
    picture.paste((255, 255, 255, 255), (10, 10, 20, 20))
    picture.save(tmp_path / "alpha.webp", quality=50)
    picture.convert("RGB").save(tmp_path / "lossless.webp", lossless=True)
    for name in ("alpha.webp", "lossless.webp"):
        assert (image(32, tmp_path / name)[..., 3] >= 0.5).sum() == 100


def test_a_file_that_cannot_be_a_trigger_is_reported(tmp_path):
    with pytest.raises(ValueError, match=r"trigger\.path=<png>"):
        make(next(path for path in FILES if path.stem == "image"), 32)
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="all background"):
        image(32, tmp_path / "black.png")
