"""CIFAR's official archives in every form that data.path may name, and the download."""

import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from data_archives import noise

import bdiff.data.cifar
from bdiff.common.errors import RequestError


def planes(rows: np.ndarray) -> np.ndarray:
    """CIFAR's rows are three 32x32 colour planes, one after the other."""
    return rows.reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("form", ["download", "tar", "folder of tar", "folder of folder", "folder", "renamed"])
def test_cifar10_in_every_form(form, get, cifar10_tar, tmp_path):
    home = cifar10_tar.parent
    if "folder of folder" in form or form in ("folder", "renamed"):
        with tarfile.open(cifar10_tar) as archive:
            archive.extractall(home, filter="data")
        cifar10_tar.unlink()
    batches = home / "cifar-10-batches-py"
    if form == "renamed":
        batches.rename(home / "mine")
    path = {"download": None, "tar": cifar10_tar, "folder": batches, "renamed": home / "mine"}.get(form, home)
    images = get("cifar10", path=path)
    assert (len(images), images.shape, images.flip) == (20, (3, 32, 32), True)
    assert images.classes == tuple(f"class{number}" for number in range(10))
    assert images.labels[:8].tolist() == [0, 1, 2, 9, 1, 1, 2, 9]
    assert np.array_equal(images.take(torch.arange(20)), planes(noise(24, 3072))[:20])


def test_splits(get, cifar10_tar):
    test, both = get("cifar10", path=cifar10_tar, split="test"), get("cifar10", path=cifar10_tar, split="all")
    assert np.array_equal(test.take(torch.arange(4)), planes(noise(24, 3072))[20:])
    assert len(both) == 24 and len({test.fingerprint, both.fingerprint}) == 2


def test_cifar100(get, cifar100_tar):
    images = get("cifar100", path=cifar100_tar)
    assert (len(images), len(images.classes)) == (6, 100) and images.labels.tolist() == [0, 99, 2, 3, 4, 5]
    assert np.array_equal(images.take(torch.arange(6)), planes(noise(10, 3072, seed=1))[:6])
    assert len(get("cifar100", path=None, split="all")) == 10


def test_both_datasets_in_one_folder(get, cifar10_tar, cifar100_tar):
    shutil.copy(cifar100_tar, cifar10_tar.parent)
    assert len(get("cifar10", path=cifar10_tar.parent)) == 20
    assert len(get("cifar100", path=cifar10_tar.parent)) == 6


def test_cache_spares_the_archive_until_it_is_touched(get, cifar10_tar, monkeypatch):
    first = get("cifar10", path=cifar10_tar)

    def reading(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.__init__", reading)
    assert get("cifar10", path=cifar10_tar).fingerprint == first.fingerprint
    os.utime(cifar10_tar, (1, 1))
    with pytest.raises(AssertionError, match="read again"):
        get("cifar10", path=cifar10_tar)


def test_official_archive_and_download_share_a_fingerprint(get, cifar10_tar):
    assert get("cifar10", path=cifar10_tar).fingerprint == get("cifar10").fingerprint


def test_cifar10_from_a_folder_of_pictures(get, animals):
    assert get("cifar10", path=animals).classes == ("cat", "dog")


def test_failed_download_says_where_from_and_what_instead(get, cifar10_tar, tmp_path):
    cifar10_tar.unlink()
    with pytest.raises(RequestError) as caught:
        get("cifar10")
    (line,) = str(caught.value).splitlines()
    assert all(part in line for part in (str(tmp_path / "cache" / "cifar10"), bdiff.data.cifar.PAGE, "data.path="))


def test_damaged_download_is_refused(get, cifar10_tar):
    cifar10_tar.write_bytes(cifar10_tar.read_bytes()[:-100])
    with pytest.raises(RequestError, match="could not be downloaded"):
        get("cifar10")


def test_truncated_archive(get, cifar10_tar):
    cifar10_tar.write_bytes(cifar10_tar.read_bytes()[:-100])
    with pytest.raises(RequestError, match="truncated or not the official"):
        get("cifar10", path=cifar10_tar)


def test_unpacked_folder_with_a_damaged_file(get, cifar10_tar):
    with tarfile.open(cifar10_tar) as archive:
        archive.extractall(cifar10_tar.parent, filter="data")
    (cifar10_tar.parent / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"")
    with pytest.raises(RequestError, match="is incomplete"):
        get("cifar10", path=cifar10_tar.parent)
