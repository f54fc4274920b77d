"""Wrong data: one line each that names what is wrong and what to do; the early check tells what it can of it."""

import gzip
import os
import zipfile
from pathlib import Path

import pytest
from data_archives import encode, noise, write, zip_folder

from bdiff.common.errors import RequestError
from bdiff.data.check import problems


def missing(root: Path) -> Path:
    return root / "nowhere"


def empty_folder(root: Path) -> Path:
    (root / "empty").mkdir()
    return root / "empty"


def empty_zip(root: Path) -> Path:
    with zipfile.ZipFile(root / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "no pictures")
    return root / "empty.zip"


def text_as_zip(root: Path) -> Path:
    return write(root / "text.zip", b"this is no zip")


def truncated_zip(root: Path) -> Path:
    path = whole_zip(root)
    return write(path, path.read_bytes()[:-30])


def other_file(root: Path) -> Path:
    return write(root / "data.bin", b"0")


def text_as_lmdb(root: Path) -> Path:
    return write(root / "x_lmdb" / "data.mdb", b"no database").parent


def whole_zip(root: Path) -> Path:
    write(root / "whole" / "a" / "1.png", encode(noise(32, 32, 3)))
    return zip_folder(root / "whole", root / "whole.zip")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "does not exist"),
        (empty_folder, "holds no pictures"),
        (empty_zip, "holds no pictures"),
        (text_as_zip, "not a complete zip"),
        (truncated_zip, "not a complete zip"),
        (other_file, "neither a folder nor a zip"),
        (text_as_lmdb, "not an intact LMDB"),
    ],
)
@pytest.mark.parametrize("name", ["images", "cifar10", "lsun_church"])
def test_what_is_wrong_at_once(make, message, name, get, tmp_path):
    path = make(tmp_path)
    with pytest.raises(RequestError, match=message) as caught:
        get(name, path=path)
    assert len(str(caught.value).splitlines()) == 1 and str(path) in str(caught.value)
    assert problems(str(path)) == list(caught.value.problems)


def test_what_is_right_has_no_problems(tmp_path, animals, lsun, edm_zip, cifar10_tar, cifar100_tar):
    fine = [None, animals, lsun, lsun / "bedroom_val_lmdb", edm_zip, cifar10_tar, cifar100_tar.parent]
    assert [problems(path if path is None else str(path)) for path in fine] == [[]] * len(fine)


@pytest.mark.parametrize("keep", [5, 2000])
def test_truncated_gzip_is_seen_early(keep, tmp_path):
    path = write(tmp_path / "cifar-10-python.tar.gz", gzip.compress(noise(50000).tobytes())[:keep])
    for named in (path, tmp_path):
        (line,) = problems(str(named))
        assert "not a complete tar.gz" in line and str(path) in line


@pytest.mark.parametrize(
    "broken", [b"", b"no picture", encode(noise(32, 32, 3), "JPEG")[:500], encode(noise(32, 32, 3))[:500]]
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_broken_picture_is_named_and_nothing_is_kept(broken, zipped, get, animals, tmp_path):
    write(animals / "dog" / "bad.jpg", broken)
    path = zip_folder(animals, tmp_path / "animals.zip") if zipped else animals
    with pytest.raises(RequestError) as caught:
        get("images", path=path)
    assert "dog/bad.jpg" in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / "cache").rglob("manifest.json")) + list((tmp_path / "cache").rglob("*.npy"))
    (animals / "dog" / "bad.jpg").unlink()
    assert len(get("images", path=animals)) == 12


@pytest.mark.parametrize("count", [3, 20])
def test_broken_pictures_are_named_together_up_to_ten_of_them(count, get, animals):
    for number in range(count):
        write(animals / "dog" / f"bad{number:02}.jpg", b"no picture")
    with pytest.raises(RequestError) as caught:
        get("images", path=animals)
    *named, last = caught.value.problems
    assert len({*named, last}) == min(count, 10 + 1)
    assert all(f"bad{number:02}.jpg cannot be read" in line for number, line in enumerate(named))
    assert ("there may be more" in last) == (count == 20)


def test_a_zip_member_with_a_wrong_checksum_is_named(get, tmp_path):
    path = whole_zip(tmp_path)
    data = bytearray(path.read_bytes())
    data[200] ^= 255  # inside the stored picture
    with pytest.raises(RequestError, match=r"picture a/1\.png cannot be read"):
        get("images", path=write(path, bytes(data)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_zip_that_may_not_be_read(get, tmp_path):
    path = whole_zip(tmp_path)
    path.chmod(0)
    with pytest.raises(RequestError, match="Permission denied"):
        get("images", path=path)


@pytest.mark.parametrize("name", ["celebahq", "lsun_bedroom", "lsun_church", "images"])
def test_data_without_a_download_say_where_they_come_from(name, get, tmp_path):
    with pytest.raises(RequestError) as caught:
        get(name)
    (line,) = str(caught.value).splitlines()
    assert str(tmp_path / "cache" / name) in line and "data.path=" in line
    assert name == "images" or "https://" in line


def test_a_tar_that_is_no_official_archive(get, tmp_path):
    path = write(tmp_path / "faces.tar.gz", gzip.compress(b"faces"))
    with pytest.raises(RequestError, match="unpack it"):
        get("celebahq", path=path)
    with pytest.raises(RequestError, match="not the official cifar-10-python"):
        get("cifar10", path=path)
