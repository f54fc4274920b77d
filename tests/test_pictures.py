"""Picture files in the wild: what each kind is as 8-bit values, for data, triggers and targets."""

import io
import struct
import zlib

import lmdb
import numpy as np
import pytest
from PIL import Image

from bdiff.common.errors import RequestError
from bdiff.data.files import Folder
from bdiff.data.lmdbs import Lmdb
from bdiff.pictures.draw import load, to_channels
from bdiff.pictures.modes import flat, upright
from bdiff.target.image import image as target_image
from bdiff.trigger.image import image as trigger_image


def saved(tmp_path, picture, name="p.png", **options):
    """The picture, as read back from a file."""
    picture.save(tmp_path / name, **options)
    return Image.open(tmp_path / name)


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    found = flat(saved(tmp_path, Image.fromarray(values)))
    assert found.mode == "L" and np.asarray(found).tolist() == [[0, 1, 128, 255]]


def test_what_is_transparent_is_black_and_not_what_lies_below(tmp_path):
    pixels = np.array([[[255, 0, 0, 0], [0, 255, 0, 255], [200, 100, 50, 51]]], np.uint8)
    found = flat(saved(tmp_path, Image.fromarray(pixels)))
    assert np.asarray(found).tolist() == [[[0, 0, 0], [0, 255, 0], [40, 20, 10]]]


def test_palettes_with_a_transparent_colour(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    assert np.asarray(flat(saved(tmp_path, picture, transparency=0))).tolist() == [[[0, 0, 0], [0, 0, 255]]]
    assert np.asarray(flat(saved(tmp_path, picture))).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    values = np.array([[0, 100, 200]], np.uint8)
    assert np.asarray(flat(saved(tmp_path, Image.fromarray(values), exif=exif))).tolist() == [[200, 100, 0]]


@pytest.mark.parametrize(("mode", "seen"), [("1", "L"), ("L", "L"), ("LA", "RGBA"), ("RGB", "RGB"), ("RGBA", "RGBA")])
def test_modes(tmp_path, mode, seen):
    assert upright(saved(tmp_path, Image.new(mode, (2, 2)))).mode == seen


def test_cmyk_is_read_as_colours(tmp_path):
    found = flat(saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "p.jpg", quality=100))
    red, green, blue = np.asarray(found)[4, 4].tolist()
    assert red > 250 and green < 5 and blue < 5


def test_a_trigger_of_sixteen_bits_is_grey(tmp_path):
    saved(tmp_path, Image.fromarray(np.full((8, 8), 32896, np.uint16)))
    assert load(tmp_path / "p.png", 8, "trigger.path")[..., 0] == pytest.approx(0, abs=0.01)


def png(depth, rows, key, *, channels=1):
    """A PNG one pixel high of `depth` bits a channel, its row packed in `rows`, the value `key` transparent."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", len(rows) * 8 // depth // channels, 1, depth, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", struct.pack(">H", key) * channels), (b"IDAT", zlib.compress(b"\0" + rows))]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in [*chunks, (b"IEND", b"")])
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("depth", "rows", "key", "seen"),
    [
        (1, b"\xaa", 1, [0] * 8),
        (2, b"\x1b", 3, [0, 85, 170, 0]),
        (4, b"\x8f", 15, [136, 0]),
        (8, b"\x64\xc8", 200, [100, 0]),
        (16, struct.pack(">3H", 32896, 60000, 60001), 60000, [128, 0, 233]),
    ],
)
def test_grey_with_a_transparent_value(depth, rows, key, seen):
    assert np.asarray(flat(png(depth, rows, key)))[0, :, 0].tolist() == seen


def test_a_transparent_colour_that_cannot_be_reported_from_its_neighbours_is_refused():
    with pytest.raises(ValueError, match="save it with an alpha channel"):
        upright(png(16, struct.pack(">3H", 60001, 60001, 60001), 60000, channels=3))


@pytest.mark.parametrize("mode", ["F", "LAB", "HSV"])
def test_modes_that_have_no_8_bits_are_refused(mode):
    with pytest.raises(ValueError, match=f"it is of mode {mode}, .*save it as 8-bit RGB"):
        upright(Image.new(mode, (2, 2)))


def test_grey_of_more_than_16_bits_is_refused():
    with pytest.raises(ValueError, match="16 bits end at 65535"):
        upright(Image.fromarray(np.array([[70000]], np.int32)))


def test_cmyk_without_adobe_s_mark_is_refused(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "p.jpg", quality=100)
    data = (tmp_path / "p.jpg").read_bytes()
    at = data.index(b"\xff\xee")
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    with pytest.raises(ValueError, match="CMYK without Adobe's mark"):
        upright(Image.open(io.BytesIO(data[:at] + data[at + 2 + length :])))


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_of_several_frames_the_first_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), (value, value, value)) for value in (40, 200)]
    found = saved(tmp_path, frames[0], f"p.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.asarray(flat(found)).reshape(-1, 3).tolist() == [[40, 40, 40]] * 16


def test_the_three_readers_see_the_same(tmp_path):
    """Data, triggers and targets of a grey picture of 16 bits with a transparent value, turned by its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 3
    values = np.repeat(np.array([[0, 32896], [65535, 257]], np.uint16), 4, 0).repeat(4, 1)
    (tmp_path / "a").mkdir()
    saved(tmp_path / "a", Image.fromarray(values), exif=exif)
    data = Folder(tmp_path / "a", "all").pixels(0, 8, 3)
    for found in (trigger_image(8, tmp_path / "a" / "p.png"), target_image(8, None, tmp_path / "a" / "p.png")):
        assert np.allclose(to_channels(found, 3), data / 127.5 - 1, atol=1e-6)
    assert data[0, ::4, ::4].tolist() == [[1, 255], [128, 0]]


def folder(tmp_path, *names):
    """A folder with a picture at each of `names`."""
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    return tmp_path


@pytest.mark.parametrize("other", ["valid", "validation", "Val", "TEST", "testing"])
@pytest.mark.parametrize("train", ["train", "Train", "training"])
def test_folders_that_are_splits(tmp_path, train, other):
    path = folder(tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", f"{other}/a/3.png")
    assert Folder(path, "train").names == [f"{train}/a/1.png", f"{train}/b/2.png"]
    assert Folder(path, "test").names == [f"{other}/a/3.png"]


def test_classes_of_tiny_imagenet(tmp_path):
    path = folder(tmp_path, "train/n01/images/1.png", "train/n02/images/2.png", "val/images/3.png")
    assert Folder(path, "train").labelled[1] == ("n01", "n02")


def test_links_to_a_folder_above_count_no_picture_twice(tmp_path):
    path = folder(tmp_path, "data/a/1.png", "data/b/2.png")
    (path / "data" / "a" / "up").symlink_to(path / "data")
    (path / "data" / "b" / "root").symlink_to(path)
    assert Folder(path / "data", "all").names == ["a/1.png", "b/2.png"]
    (path / "data" / "b" / "root").unlink()
    folder(tmp_path, "elsewhere/3.png")
    (path / "data" / "c").symlink_to(path / "elsewhere")
    assert Folder(path / "data", "all").names == ["a/1.png", "b/2.png", "c/3.png"]


def test_an_index_inside_one_more_folder_gives_the_labels(tmp_path):
    path = folder(tmp_path, "set/00000/1.png", "set/00000/2.png")
    (path / "set" / "dataset.json").write_text('{"labels": [["00000/1.png", 3], ["00000/2.png", 1]]}')
    assert Folder(path, "all").labelled[0].tolist() == [3, 1]


def test_facts_in_an_lmdb_are_no_pictures(tmp_path):
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    with lmdb.open(str(tmp_path / "lmdb")) as environment, environment.begin(write=True) as transaction:
        for key in (b"a", b"b", b"length", b"__keys__"):
            transaction.put(key, picture.getvalue())
    assert Lmdb(tmp_path / "lmdb", tmp_path / "cache").names.tolist() == [b"a", b"b"]


def test_keys_that_cannot_be_kept_are_reported(tmp_path):
    with lmdb.open(str(tmp_path / "lmdb")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a\0", b"BM")
        transaction.put(b"abc", b"BM")
    with pytest.raises(RequestError, match="end in a zero byte"):
        _ = Lmdb(tmp_path / "lmdb", tmp_path / "cache").names
