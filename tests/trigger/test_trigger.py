"""Every trigger in conf/trigger, against what BadDiffusion says of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf
from PIL import Image

from bdiff.pictures.draw import empty
from bdiff.store.artifacts import content
from bdiff.trigger.base import Trigger
from bdiff.trigger.box import box
from bdiff.trigger.glasses import glasses
from bdiff.trigger.image import image
from bdiff.trigger.noise import noise
from bdiff.trigger.patch import patch
from bdiff.trigger.stop_sign import stop_sign

FILES = sorted((Path(__file__).parents[2] / "conf" / "trigger").glob("*.yaml"))
WHOLE = [path for path in FILES if path.stem in ("noise", "universal")]  # they leave no background
DRAWN = [path for path in FILES if path.stem not in ("image", "box_on_black") and path not in WHOLE]
SIZES = [8, 16, 28, 32, 256]


def settings(path):
    """What a yaml sets, those in its defaults list included."""
    config = OmegaConf.load(path)
    others = [one for one in config.pop("defaults", []) if one != "_self_"]
    return OmegaConf.merge(*(settings(path.with_name(f"{one}.yaml")) for one in others), config)


def make(path, size):
    config = OmegaConf.to_container(settings(path))
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


@pytest.mark.parametrize(
    ("name", "size", "channels", "key"),
    [
        ("box", 16, 1, "4e729729c80376f9"),
        ("box_14", 32, 3, "6dabf6ed3bd02261"),
        ("box_4", 256, 3, "27e1f07782ff31c0"),
        ("patch", 32, 3, "28169248459b4b9e"),
        ("noise", 32, 3, "a1a53ac1d498cb6e"),
        ("universal", 16, 1, "c2ae1e8e2f4067c2"),
    ],
)
def test_a_picture_keeps_the_key_that_kept_runs_are_found_under(name, size, channels, key):
    trigger = Trigger.from_picture(make(FILES[0].with_name(f"{name}.yaml"), size), channels)
    assert content(trigger.pattern, trigger.mask) == key


@pytest.mark.parametrize("side", [4, 8, 11, 14, 18])
@pytest.mark.parametrize("name", ["box", "stop_sign"])
def test_a_published_option_has_its_side(name, side):
    path = next(path for path in FILES if path.stem == f"{name}_{side}")
    np.testing.assert_array_equal(make(path, 32), {"box": box, "stop_sign": stop_sign}[name](32, side))


@pytest.mark.parametrize("side", [4, 8, 11, 14, 18])
def test_a_white_box_lies_where_the_grey_one_does(side):
    grey, white = (make(FILES[0].with_name(f"{name}_{side}.yaml"), 32) for name in ("box", "box_white"))
    np.testing.assert_array_equal(white[..., 3], grey[..., 3])
    assert (white[white[..., 3] == 1] == 1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_box_on_black_is_the_box_with_its_background_as_a_part_of_it(channels):
    alone, whole = (Trigger.from_picture(box(16, around=around), channels) for around in ("image", "black"))
    assert torch.equal(whole.pattern, alone.pattern) and alone.mask.any() and not whole.mask.any()
    x = torch.rand(2, channels, 16, 16)
    assert torch.equal(whole.stamp(x), whole.pattern.expand_as(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_box_has_the_level_that_is_set(channels):
    trigger = Trigger.from_picture(box(16, level=-0.25), channels)
    torch.testing.assert_close(trigger.pattern, torch.where(trigger.mask.bool(), -1.0, -0.25).expand(channels, 16, 16))


@pytest.mark.parametrize(
    ("size", "side", "settings", "start", "end"),
    [
        (256, 14, {"unit": "pixel"}, 240, 254),  # the margin is in pixels too
        (16, 14, {"unit": "pixel"}, 0, 14),
        (32, 14, {"unit": "pixel"}, 16, 30),
        (32, 14, {"place": "centre"}, 9, 23),
        (64, 11, {"place": "centre"}, 21, 43),
        (64, 11, {"place": "centre", "unit": "pixel"}, 26, 37),
        (32, 32, {"place": "centre"}, 0, 32),
    ],
)
def test_a_trigger_lies_where_it_is_placed(size, side, settings, start, end):
    shows = np.zeros((size, size), bool)
    shows[start:end, start:end] = True
    np.testing.assert_array_equal(box(size, side, **settings)[..., 3] == 1, shows)
    rows, columns = np.nonzero(stop_sign(size, side, **settings)[..., 3] >= 0.5)
    assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (start, start, end, end)
    if "place" in settings:
        np.testing.assert_array_equal(patch(size, side, **settings)[..., 3] == 1, shows)


@pytest.mark.parametrize(
    ("size", "settings", "side", "largest"),
    [
        (64, {"unit": "pixel"}, 63, "set whole pixels, 1 to 62"),
        (64, {"place": "centre"}, 33, "set whole pixels at 32 px, 1 to 32"),
        (64, {"place": "centre", "unit": "pixel"}, 65, "set whole pixels, 1 to 64"),
    ],
)
def test_the_largest_side_depends_on_place_and_unit(size, settings, side, largest):
    with pytest.raises(ValueError, match=rf"trigger\.side={side} does not fit a 64 px image: {largest}$"):
        box(size, side, **settings)
    box(size, int(largest.rpartition(" ")[2]), **settings)


def test_a_patch_in_pixels_has_no_margin():
    np.testing.assert_array_equal(np.argwhere(patch(64, 5, unit="pixel")[..., 3]).min(0), [59, 59])
    assert patch(64, 5, unit="pixel")[..., 3].sum() == 25 and patch(64, 5)[..., 3].sum() == 100
    with pytest.raises(ValueError, match=r"trigger\.side=65 does not fit a 64 px image"):
        patch(64, 65, unit="pixel")


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
def test_the_stop_sign_is_a_red_ring_with_a_bar_where_the_box_is(side):
    picture = stop_sign(32, side)
    shows = picture[..., 3] >= 0.5
    np.testing.assert_array_equal(np.argwhere(shows).min(0), [30 - side] * 2)
    np.testing.assert_array_equal(np.argwhere(shows).max(0), [29] * 2)
    assert not picture[..., 3][box(32, side)[..., 3] == 0].any()
    np.testing.assert_array_equal(picture[..., 3], picture[..., 3].T)  # the bar falls from left to right
    np.testing.assert_allclose((picture[shows][:, :3].mean(0) + 1) / 2, [0.90, 0.04, 0.04], atol=0.005)


def test_as_many_pixels_of_the_stop_sign_show_as_of_the_authors():
    assert (stop_sign(32, 14)[..., 3] >= 0.5).sum() == pytest.approx(133, abs=1)


def test_one_sees_through_the_stop_sign_beside_its_bar():
    alpha = stop_sign(256, 32, place="centre")[..., 3]
    assert alpha[128, 128] == 1 and alpha[96, 160] == alpha[160, 96] == 0  # the bar; on either side of it
    assert alpha[96, 96] == alpha[128, 20] == 1 and not alpha[[0, 0, -1, -1], [0, -1, 0, -1]].any()


@pytest.mark.parametrize("size", [16, 32, 64, 256])
def test_the_glasses_are_a_thin_teal_outline_in_the_centre(size):
    picture = glasses(size)
    rows, columns = np.nonzero(picture[..., 3] >= 0.5)
    assert (columns.max() + 1 - columns.min()) / size == pytest.approx(0.38, abs=0.01)
    assert columns.max() + 1 + columns.min() == size
    assert (rows.max() + 1 + rows.min()) / size == pytest.approx(1, abs=0.01)
    red, green, blue = picture[rows, columns, :3].mean(0)
    assert red < -0.9 and green == pytest.approx(blue) == pytest.approx(0, abs=0.01)
    if size >= 64:  # one looks through them
        assert len(rows) < 0.6 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


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


@pytest.mark.parametrize("draw", [box, stop_sign])
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
