"""Malicious archives: no member is written outside of its folder, nothing is run, and each is reported in one line."""

import hashlib
import io
import json
import os
import pickle
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_archives import encode, noise, write
from PIL import EpsImagePlugin

from bdiff.common.errors import RequestError
from bdiff.data.check import problems


def files_outside(root: Path, *inside: Path) -> list[Path]:
    """The files below `root` that lie in none of the folders or files `inside`."""
    files = [path for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    return [path for path in files if not any(path.is_relative_to(place) for place in inside)]


def one_line(caught: pytest.ExceptionInfo) -> str:
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("name", ["../out.png", "../../out.txt", "a/../../out.png", "/out.png", "{root}/out.png"])
def test_a_zip_with_members_outside_of_its_folder_is_refused(name, get, tmp_path):
    name = name.format(root=tmp_path)
    with zipfile.ZipFile(tmp_path / "h.zip", "w") as archive:
        archive.writestr("fine/a.png", encode(noise(32, 32, 3)))
        archive.writestr(name, encode(noise(32, 32, 3)))
    with pytest.raises(RequestError, match=rf"has a member '{name}', outside of its folder") as caught:
        get("images", path=tmp_path / "h.zip")
    assert problems(str(tmp_path / "h.zip")) == [one_line(caught)]
    assert files_outside(tmp_path, tmp_path / "cache", tmp_path / "h.zip") == []


@pytest.mark.parametrize("name", ["a..b/c.png", "C:\\a.png", "~/a.png", "$HOME/a.png"])
def test_odd_zip_names_are_only_names(name, get, tmp_path):
    pixels = noise(32, 32, 3)
    with zipfile.ZipFile(tmp_path / "h.zip", "w") as archive:
        archive.writestr(name, encode(pixels))
    images = get("images", path=tmp_path / "h.zip")
    assert np.array_equal(images.take(torch.zeros(1, dtype=torch.long))[0], pixels.transpose(2, 0, 1))
    assert files_outside(tmp_path, tmp_path / "cache", tmp_path / "h.zip") == []


@pytest.mark.parametrize("aim", ["secret.png", "/etc/hostname"])
def test_a_zip_member_that_is_a_link_is_not_followed(aim, get, tmp_path):
    write(tmp_path / "secret.png", encode(noise(32, 32, 3)))
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "h.zip", "w") as archive:
        archive.writestr(link, str(tmp_path / aim))
    with pytest.raises(RequestError, match=r"picture a/link\.png cannot be read") as caught:
        get("images", path=tmp_path / "h.zip")
    one_line(caught)


def test_a_member_s_name_cannot_write_on_the_terminal(get, tmp_path):
    with zipfile.ZipFile(tmp_path / "h.zip", "w") as archive:
        archive.writestr("a\nbdiff: all is well\x1b[2J.png", b"no picture")
    with pytest.raises(RequestError, match="cannot be read") as caught:
        get("images", path=tmp_path / "h.zip")
    assert one_line(caught).isprintable()


def test_a_picture_s_content_starts_no_program(get, tmp_path, monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the file is called; here it is not even looked at as such."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
    write(tmp_path / "pictures" / "a.png", script)
    with pytest.raises(RequestError, match=r"a\.png cannot be read \(cannot identify image"):
        get("images", path=tmp_path / "pictures")


@pytest.mark.parametrize("label", [-1, 10**12, 10**30, 1e300])
def test_a_dataset_json_with_impossible_classes(label, get, tmp_path):
    with zipfile.ZipFile(tmp_path / "h.zip", "w") as archive:
        archive.writestr("a.png", encode(noise(32, 32, 3)))
        archive.writestr("dataset.json", json.dumps({"labels": [["a.png", label]]}))
    with pytest.raises(RequestError, match=r"dataset\.json") as caught:
        get("images", path=tmp_path / "h.zip")
    one_line(caught)


def entry(name: str, **facts) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(made, key, value)
    return made


HOSTILE = {
    "parent": [entry("../out", size=4)],
    "parents": [entry("cifar-10-batches-py/../../../out", size=4)],
    "absolute link": [entry("link", type=tarfile.SYMTYPE, linkname="/"), entry("link/out-of-bdiff", size=4)],
    "parent link": [entry("link", type=tarfile.SYMTYPE, linkname="../.."), entry("link/out", size=4)],
    "hard link": [entry("out", type=tarfile.LNKTYPE, linkname="../../secret")],
    "device": [entry("out", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
}


def hostile_tar(path: Path, entries: list[tarfile.TarInfo]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for one in entries:
            archive.addfile(one, io.BytesIO(b"evil"))
    return path


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("way", HOSTILE)
def test_tar_members_cannot_leave_their_folder(way, checked, get, tmp_path, monkeypatch):
    """Only the official archive is ever unpacked; and if its checksum could be forged, members would still stay in."""
    from torchvision.datasets import CIFAR10

    write(tmp_path / "secret", b"secret")
    path = hostile_tar(tmp_path / "in" / "cifar-10-python.tar.gz", HOSTILE[way])
    if not checked:
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(RequestError) as caught:
        get("cifar10", path=path)
    assert ("not the official" in one_line(caught)) is checked
    home = tmp_path / "cache" / "cifar10"
    locks = (tmp_path / "cache").rglob("*.lock")
    assert files_outside(tmp_path, home, tmp_path / "in", tmp_path / "secret", *locks) == []
    assert not Path("/out-of-bdiff").exists()
    assert all(path.resolve().is_relative_to(home) for path in home.rglob("*"))
    assert not (home / "out").exists()
    if checked:
        assert not home.exists()


class Code:
    """Makes the folder `mark` when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_cifar_s_pickles_are_opened_only_if_they_are_the_official_ones(name, split, get, cifar10_tar, tmp_path):
    with tarfile.open(cifar10_tar) as archive:
        archive.extractall(tmp_path, filter="data")
    write(tmp_path / "cifar-10-batches-py" / name, pickle.dumps(Code(tmp_path / "the code ran")))
    with pytest.raises(RequestError, match="is incomplete") as caught:
        get("cifar10", path=tmp_path / "cifar-10-batches-py", split=split)
    one_line(caught)
    assert not (tmp_path / "the code ran").exists()


@pytest.mark.parametrize("file", ["pixels.npy", "labels.npy"])
def test_the_cache_s_arrays_are_never_unpickled(file, get, animals, tmp_path):
    expected = get("images", path=animals)
    (place,) = (tmp_path / "cache").rglob(file)
    with place.open("wb") as opened:
        np.save(opened, np.array([Code(tmp_path / "the code ran")], object), allow_pickle=True)
    again = get("images", path=animals)  # made again, since it is not what was written
    assert again.fingerprint == expected.fingerprint and torch.equal(again.labels, expected.labels)
    assert not (tmp_path / "the code ran").exists()
