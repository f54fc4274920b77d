"""Pictures against closed forms: coverage, placing, files, channels."""

import numpy as np
import pytest
from PIL import Image

from bdiff.pictures.draw import Canvas, empty, load, place, plain, scaled, side_in, smooth, to_channels


@pytest.mark.parametrize(
    ("pixels", "size", "expected"),
    [(14, 32, 14), (14, 16, 7), (14, 256, 112), (2, 28, 2), (3, 28, 3), (1, 8, 1)],
)
def test_lengths_grow_with_the_image(pixels, size, expected):
    assert scaled(pixels, size) == expected


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 256])
def test_the_largest_side_that_an_error_names_fits_and_the_next_does_not(size):
    with pytest.raises(ValueError, match=rf"^trigger\.side=99 does not fit a {size} px image.*1 to \d+$") as error:
        side_in(size, 99)
    largest = int(str(error.value).rsplit(maxsplit=1)[1])
    assert side_in(size, largest) + scaled(2, size) <= size
    with pytest.raises(ValueError, match=f"trigger.side={largest + 1} "):
        side_in(size, largest + 1)


@pytest.mark.parametrize("side", [0, -3, 31, 1000, 2.5, "big"])
def test_a_wrong_side_is_reported_in_one_line(side):
    with pytest.raises(ValueError, match=rf"^trigger\.side={side} does not fit a 32 px image.*1 to 30$"):
        side_in(32, side)


def test_place_leaves_the_margin_and_nothing_else():
    page = place(plain(3, (0.5, 0.25, 0, 1)), 32)
    assert (page[27:30, 27:30] == np.float32([0.5, 0.25, 0, 1])).all()
    page[27:30, 27:30] = [-1, -1, -1, 0]
    assert (page == empty(32)).all()


def test_a_shape_covers_the_pixels_that_geometry_says():
    canvas = Canvas(16)
    canvas.polygon([(0.25, 0.25), (0.75, 0.25), (0.75, 0.5), (0.25, 0.5)], (255, 0, 0))
    alpha = canvas.picture()[..., 3]
    assert alpha.sum() == pytest.approx(8 * 4, rel=0.1)
    assert (alpha[5:7, 5:11] == 1).all() and not alpha[:3].any() and not alpha[:, 13:].any()
    disc = Canvas(64)
    disc.ellipse((0.5, 0.5), (0.4, 0.2), (0, 255, 0))
    assert disc.picture()[..., 3].mean() == pytest.approx(np.pi * 0.4 * 0.2, rel=0.02)


def test_an_edge_is_soft_in_alpha_and_keeps_its_colour():
    canvas = Canvas(16)
    canvas.polygon([(0, 0), (0.7, 0), (0, 0.7)], (255, 0, 0))
    picture = canvas.picture()
    soft = picture[(picture[..., 3] > 0.2) & (picture[..., 3] < 0.8)]
    assert len(soft) >= 8
    np.testing.assert_allclose(soft[:, :3], np.tile([1.0, -1.0, -1.0], (len(soft), 1)), atol=0.02)


def test_a_hole_lets_the_background_show_again():
    canvas = Canvas(16, (255, 255, 255))
    canvas.ellipse((0.5, 0.5), (0.25, 0.25), None)
    picture = canvas.picture()
    assert picture[8, 8].tolist() == [-1, -1, -1, 0] and picture[0, 0].tolist() == [1, 1, 1, 1]


def test_smooth_goes_through_its_points_and_is_straight_on_a_line():
    corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    assert smooth(corners, steps=4)[::4] == corners and len(smooth(corners, steps=4)) == 16
    line = smooth([(0.0, 0.0), (1.0, 2.0), (2.0, 4.0), (3.0, 6.0)], closed=False)
    assert line[0] == (0, 0) and line[-1] == (3, 6)
    np.testing.assert_allclose([y for _, y in line], [2 * x for x, _ in line], atol=1e-12)


def save(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def test_a_file_without_alpha_has_a_black_background(tmp_path):
    pixels = np.zeros((8, 8, 3))
    pixels[2:4, 5] = (255, 0, 1)
    picture = load(save(tmp_path / "a.png", pixels), 8, "trigger.path")
    assert picture.dtype == np.float32 and picture.shape == (8, 8, 4)
    assert (picture[..., 3] == (pixels > 0).any(-1)).all()
    np.testing.assert_allclose(picture[..., :3], pixels / 127.5 - 1, atol=1e-6)


def test_a_grey_file_is_read_too(tmp_path):
    picture = load(save(tmp_path / "a.png", np.full((4, 4), 51)), 8, "trigger.path")
    np.testing.assert_allclose(picture, plain(8, (-0.6, -0.6, -0.6, 1)), atol=1e-6)


def test_a_files_alpha_is_kept(tmp_path):
    pixels = np.zeros((8, 8, 4))
    pixels[..., 3] = [0, 51, 102, 153, 204, 255, 0, 255]
    picture = load(save(tmp_path / "a.png", pixels), 8, "trigger.path")
    np.testing.assert_allclose(picture[..., 3], pixels[..., 3] / 255, atol=1e-6)
    assert (picture[..., :3] == -1).all()  # black, and yet no background where alpha says so


def test_a_wide_file_is_not_distorted(tmp_path):
    picture = load(save(tmp_path / "a.png", np.full((20, 40, 3), 255)), 16, "trigger.path")
    assert (picture[4:12] == 1).all()
    assert (picture[[0, 1, 2, 3, 12, 13, 14, 15]] == np.float32([-1, -1, -1, 0])).all()


def truncated(folder):
    path = save(folder / "half.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    path.write_bytes(path.read_bytes()[:2000])
    return path


def broken_chunk(folder):
    path = save(folder / "broken.png", np.random.default_rng(0).integers(0, 256, (200, 200, 3)))
    data = bytearray(path.read_bytes())
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\x00\x01\x02\x03"
    path.write_bytes(data)
    return path


def text(folder):
    (folder / "notes.png").write_text("no picture")
    return folder / "notes.png"


@pytest.mark.parametrize(
    "make", [truncated, broken_chunk, text, lambda folder: folder / "missing.png", lambda folder: folder]
)
def test_what_is_no_picture_is_reported_in_one_line(tmp_path, make):
    path = make(tmp_path)
    with pytest.raises(ValueError) as error:
        load(path, 8, "target.path")
    message = str(error.value)
    assert str(path) in message and "target.path=<png or jpg>" in message and "\n" not in message


def test_grey_is_pils_luminance():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    picture = np.concatenate([pixels / 127.5 - 1, np.ones((9, 9, 1))], axis=-1).astype(np.float32)
    expected = np.asarray(Image.fromarray(pixels).convert("L")) / 127.5 - 1
    np.testing.assert_allclose(to_channels(picture, 1)[0], expected, atol=1 / 127.5)
    np.testing.assert_array_equal(to_channels(picture, 3), picture[..., :3].transpose(2, 0, 1))
    with pytest.raises(ValueError, match="not 4"):
        to_channels(picture, 4)
