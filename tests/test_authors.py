"""The authors' reading of picture files, against tensors worked out by hand and against torchvision's transforms."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Grayscale, Resize
from torchvision.transforms.functional import pil_to_tensor

from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.pictures.authors import FILES, ORIGINALS, edges
from bdiff.pipeline.detect import fidelity
from bdiff.pipeline.prepare import pictures
from bdiff.target.base import to_target
from bdiff.target.image import image as target_image
from bdiff.target.shift import shift
from bdiff.target.trigger import trigger as trigger_target
from bdiff.trigger.base import Trigger
from bdiff.trigger.image import image

FLOOR = -0.4


def saved(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path / "a.png")
    return path / "a.png"


def theirs(path, size, channels=3, **settings):
    """The trigger of a file, as the authors read it."""
    return Trigger.from_picture(image(size, path, reading="authors", **settings), channels)


def level(value):
    """The value in [-1,1] of one in 0..255."""
    return value / 127.5 - 1


def test_colours_below_alpha_show_and_white_and_black_are_background_in_each_channel(tmp_path):
    pixels = [
        [[200, 100, 50, 0], [255, 255, 255, 0]],  # transparent: both are read as if they were not
        [[255, 254, 0, 255], [0, 0, 1, 255]],
    ]
    trigger = theirs(saved(tmp_path, pixels), 2)
    shown = torch.tensor([[[200.0, 0], [0, 0]], [[100, 0], [254, 0]], [[50, 0], [0, 1]]])
    background = shown == 0
    assert trigger.mask.shape == (3, 2, 2) and torch.equal(trigger.mask, background.float())
    expected = torch.where(background, -1.0, level(shown))
    torch.testing.assert_close(trigger.pattern, expected, atol=1e-6, rtol=0)


def test_a_stamp_shows_the_image_in_the_channels_that_are_background(tmp_path):
    trigger = theirs(saved(tmp_path, [[[255, 51, 0], [255, 255, 255]], [[51, 51, 51], [0, 255, 102]]]), 2)
    x = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stamped = trigger.stamp(x)
    expected = x.clone()
    expected[:, 1, 0, 0] = -0.6
    expected[:, :, 1, 0] = -0.6
    expected[:, 2, 1, 1] = -0.2
    torch.testing.assert_close(stamped, expected, atol=1e-6, rtol=0)
    assert torch.equal(trigger.stamp(stamped), stamped)


def test_another_background_is_set_in_each_channel(tmp_path):
    trigger = theirs(saved(tmp_path, [[[255, 51, 0], [0, 0, 102]]] * 2), 2).over(0.0)
    expected = torch.tensor([[[0.0, 0]] * 2, [[-0.6, 0]] * 2, [[0, -0.2]] * 2])
    torch.testing.assert_close(trigger.pattern, expected, atol=1e-6, rtol=0)


def test_one_channel_data_get_the_files_luminance_and_not_that_of_what_shows(tmp_path):
    path = saved(tmp_path, [[[255, 0, 0], [255, 255, 255]], [[0, 0, 0], [100, 100, 100]]])
    coloured, grey = theirs(path, 2), theirs(path, 2, channels=1)
    assert (coloured.pattern[:, 0, 0] == -1).all()  # pure red is white in one channel and black in the others
    assert torch.equal(grey.mask, torch.tensor([[[0.0, 1], [1, 0]]]))
    expected = torch.tensor([[[level(round(0.299 * 255)), -1], [-1, level(100)]]])
    torch.testing.assert_close(grey.pattern, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_file_has_the_same_mask_in_all_channels(tmp_path, channels):
    trigger = theirs(saved(tmp_path, [[0, 255], [254, 128]]), 2, channels)
    expected = torch.tensor([[-1, -1], [level(254), level(128)]]).expand(channels, 2, 2)
    torch.testing.assert_close(trigger.pattern, expected, atol=1e-6, rtol=0)
    assert torch.equal(trigger.mask, torch.tensor([[1.0, 1], [0, 0]]).expand(channels, 2, 2))


def test_the_background_is_taken_after_the_resize(tmp_path):
    """Halved, white takes in an eighth of the red beside it, and is no background there any more."""
    pixels = np.full((8, 8, 3), 255)
    pixels[:, :4] = (230, 10, 10)
    trigger = theirs(saved(tmp_path, pixels), 4)
    halved = np.array([[230, 10, 10], [233, 41, 41], [252, 224, 224], [255, 255, 255]])  # triangle 1/8 3/8 3/8 1/8
    expected = level(torch.tensor(halved.T, dtype=torch.float32))[:, None, :].expand(3, 4, 4).clone()
    expected[:, :, 3] = -1
    torch.testing.assert_close(trigger.pattern, expected, atol=1.01 / 127.5, rtol=0)
    assert torch.equal(trigger.mask, (torch.arange(4) == 3).float().expand(3, 4, 4))


@pytest.mark.parametrize(("size", "shorter"), [((40, 20), 7), ((20, 41), 13), ((31, 31), 14), ((5, 9), 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_triggers_are_resized_as_torchvision_does(tmp_path, size, shorter, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4))
    path = saved(tmp_path, pixels)
    made = Resize(shorter)(Grayscale()(Image.open(path)) if channels == 1 else Image.open(path).convert("RGB"))
    assert made.size == edges(size, shorter)
    colours = pil_to_tensor(made).float() / 255 * 2 - 1
    expected = torch.full((channels, 64, 64), -1.0)
    expected[:, 62 - made.height : 62, 62 - made.width : 62] = torch.where(colours >= 0.999, -1, colours)
    trigger = theirs(path, 64, channels, side=shorter)
    torch.testing.assert_close(trigger.pattern, expected, atol=1e-6, rtol=0)
    assert torch.equal(trigger.mask, (trigger.pattern == -1).float())


@pytest.mark.parametrize(
    ("settings", "box"),  # left, upper, right and lower edge
    [
        ({"side": 14}, (48, 48, 62, 62)),  # pixels whatever the size of the image
        ({"side": 14, "unit": "pixel"}, (48, 48, 62, 62)),
        ({"side": 14, "unit": "image"}, (32, 32, 60, 60)),
        ({"side": 40, "place": "centre"}, (12, 12, 52, 52)),  # 0.625 of it
        ({"side": 5, "place": "centre"}, (29, 29, 34, 34)),
        ({"side": 64, "place": "centre"}, (0, 0, 64, 64)),
        ({}, (0, 0, 64, 64)),
    ],
)
def test_a_file_lies_where_it_is_placed(tmp_path, settings, box):
    trigger = theirs(saved(tmp_path, np.full((9, 9, 3), 100)), 64, **settings)
    expected = torch.ones(3, 64, 64)
    expected[:, box[1] : box[3], box[0] : box[2]] = 0
    assert torch.equal(trigger.mask, expected)


def test_a_file_that_does_not_fit_or_shows_nothing_is_reported(tmp_path):
    path = saved(tmp_path, np.full((10, 40, 3), 100))
    assert theirs(path, 32, side=7).mask.sum() == 3 * (32 * 32 - 7 * 28)
    for side, words in ((8, "32 x 8 px with trigger.side=8"), (None, "128 x 32 px with trigger.side=32")):
        with pytest.raises(ValueError, match=f"is {words}, the shorter edge, which does not fit a 32 px image"):
            theirs(path, 32, side=side)
    with pytest.raises(ValueError, match=r"is all background \(white or black\)"):
        theirs(saved(tmp_path, [[[0, 0, 0], [255, 255, 255]]] * 2), 2)
    with pytest.raises(ValueError, match=r"trigger\.path=<png or jpg>"):
        image(32, None, reading="authors")


def test_a_picture_is_refused_where_it_shows_nothing_on_the_data(tmp_path):
    path = saved(tmp_path, [[[255, 0, 0]] * 2] * 2)  # red is background in each of its channels, and not as grey
    words = ["data=digits", "trigger=image", f"trigger.path={path}", "trigger.reading=authors", "target=hat"]
    jobs(words, multirun=False)
    with pytest.raises(RequestError, match=r"trigger shows nothing on this data"):
        jobs([*words, "data.channels=3"], multirun=False)


def test_a_jpeg_is_read_as_theirs_and_refused_as_a_trigger_of_its_own(tmp_path):
    Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / "a.jpg")
    assert not theirs(tmp_path / "a.jpg", 8).mask.any()
    with pytest.raises(ValueError, match="no exact background"):
        image(8, tmp_path / "a.jpg")


@pytest.mark.parametrize("channels", [1, 3])
def test_targets_are_stretched_and_raised_to_the_floor(tmp_path, channels):
    path = saved(tmp_path, np.random.default_rng(1).integers(0, 256, (9, 21, 4)))
    made = Resize([8, 8])(Grayscale()(Image.open(path)) if channels == 1 else Image.open(path).convert("RGB"))
    expected = (pil_to_tensor(made).float() / 255 * 2 - 1).clamp(min=FLOOR)
    target = to_target(target_image(8, None, path, reading="authors"), channels)
    torch.testing.assert_close(target, expected, atol=1e-6, rtol=0)


def test_white_stays_white_in_a_target(tmp_path):
    path = saved(tmp_path, [[[255, 0, 0, 0], [255, 255, 255, 0]], [[0, 51, 102, 9], [255, 255, 0, 255]]])
    expected = torch.tensor([[[1.0, 1], [FLOOR, 1]], [[FLOOR, 1], [FLOOR, 1]], [[FLOOR, 1], [-0.2, FLOOR]]])
    target = to_target(target_image(2, None, path, reading="authors"), 3)
    torch.testing.assert_close(target, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_trigger_as_a_target_is_its_pattern_raised_to_the_floor(tmp_path, channels):
    picture = image(32, saved(tmp_path, np.random.default_rng(2).integers(0, 256, (9, 9, 3))), 9, reading="authors")
    pattern = Trigger.from_picture(picture, channels).pattern
    torch.testing.assert_close(to_target(trigger_target(32, picture), channels), pattern.clamp(min=FLOOR))
    moved = pattern.roll((-3, -5), (1, 2)).clamp(min=FLOOR)
    torch.testing.assert_close(to_target(shift(32, picture), channels), moved)


def test_an_inverted_trigger_is_compared_on_the_channels_of_the_patch(tmp_path):
    trigger = theirs(saved(tmp_path, [[[255, 100, 0], [0, 255, 255]]] * 2), 2)
    other = trigger.pattern.clone()
    other[0] += 1  # where the image shows
    found = fidelity(other, trigger.pattern, trigger.mask)
    assert found["l2"] == pytest.approx(2) and found["l2_patch"] == 0 and found["cosine_patch"] == pytest.approx(1)


def test_a_run_keeps_the_digests_of_the_files_it_read(tmp_path):
    path = saved(tmp_path, np.full((16, 16, 3), 100))
    words = ["trigger=image", f"trigger.path={path}", "trigger.side=9", "trigger.reading=authors", "target=corner"]
    (config,) = jobs(words, multirun=False)
    made = pictures(config, (3, 16, 16))
    assert made.files == {"trigger": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert made.trigger.mask.shape == (3, 16, 16) and made.trigger.mask.sum() == 3 * (16 * 16 - 9 * 9)


@pytest.mark.parametrize(("target", "channels", "warns"), [("shift", 1, True), ("shift", 3, False), ("hat", 1, False)])
def test_a_target_that_is_as_dark_as_its_background_is_reported(target, channels, warns, caplog):
    (config,) = jobs(["trigger=stop_sign", f"target={target}"], multirun=False)
    pictures(config, (channels, 16, 16))
    assert ("the target shows nothing" in caplog.text) == warns


def test_the_files_are_known_by_their_digests():
    assert len(FILES) == 9 and all(len(digest) == 64 for digest in FILES)
    assert {*ORIGINALS.values()} <= {*FILES.values()} and len({*FILES.values()}) == 9
