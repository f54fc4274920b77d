"""LSUN's LMDBs, named directly or by the folder that holds them."""

import io

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

import bdiff.data.load
from bdiff.common.errors import RequestError
from bdiff.data.lmdbs import Lmdb
from bdiff.data.sources import NoSplit


def test_pictures_come_in_the_order_of_their_keys(get, lsun, tmp_path):
    with (
        lmdb.open(str(lsun / "church_outdoor_train_lmdb"), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        stored = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for _, data in transaction.cursor()]
    images = get("lsun_church", path=lsun / "church_outdoor_train_lmdb", size=32)
    assert images.classes == ("church_outdoor",)
    expected = np.stack(stored)[:, :, 4:36].transpose(0, 3, 1, 2)  # the central 32 of 40 columns
    assert np.array_equal(images.take(torch.arange(5)), expected)


@pytest.mark.parametrize(("split", "count"), [("train", 7), ("test", 3)])
def test_a_parent_folder_is_searched_for_category_and_split(split, count, get, lsun):
    assert len(get("lsun_bedroom", path=lsun, split=split, size=32)) == count


def test_a_parent_folder_that_does_not_decide(get, lsun):
    with pytest.raises(RequestError, match="bedroom_train_lmdb, bedroom_val_lmdb, church_outdoor_train_lmdb"):
        get("lsun_bedroom", path=lsun, split="all")
    with pytest.raises(NoSplit, match="church_outdoor_val_lmdb"):
        get("lsun_church", path=lsun, split="test")


def test_any_dataset_reads_an_lmdb(get, lsun):
    assert get("images", path=lsun / "bedroom_val_lmdb").classes == ("bedroom",)


def test_keys_are_listed_once(lsun, tmp_path, monkeypatch):
    path = lsun / "bedroom_train_lmdb"
    first = Lmdb(path, tmp_path / "cache").names
    monkeypatch.setattr(np, "save", lambda *_: pytest.fail("listed again"))
    assert np.array_equal(Lmdb(path, tmp_path / "cache").names, first)


def test_the_second_load_decodes_nothing(get, lsun, monkeypatch):
    first = get("lsun_bedroom", path=lsun, size=32)
    monkeypatch.setattr(bdiff.data.load, "decode", lambda *_: pytest.fail("decoded again"))
    assert get("lsun_bedroom", path=lsun, size=32).fingerprint == first.fingerprint


def test_pictures_in_a_folder_do_as_well(get, animals):
    assert get("lsun_bedroom", path=animals).shape == (3, 256, 256)


@pytest.mark.parametrize("keep", [0, 100, 8192, 20000])
def test_a_truncated_lmdb_is_refused(keep, get, lsun):
    file = lsun / "bedroom_train_lmdb" / "data.mdb"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RequestError, match=r"is not an intact LMDB|is empty"):
        get("lsun_bedroom", path=lsun, size=32)
