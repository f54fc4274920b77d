"""Folders and zips: what counts as a picture, its class and its split, how it is fitted, what the cache keeps."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_archives import encode, noise, write, zip_folder

import bdiff.data.load
from bdiff.common.errors import RequestError
from bdiff.data.sources import NoSplit

SHARED = Path(__file__).parents[3] / "shared" / "data" / "cifar10-test-jpeg.zip"


def no_decoding(*_):
    raise AssertionError("decoded again")


def test_pictures_classes_and_pixels(get, animals):
    images = get("images", path=animals)
    assert (len(images), images.shape, images.classes) == (12, (3, 32, 32), ("cat", "dog"))
    assert images.labels.tolist() == [0] * 6 + [1] * 6 and images.labels.dtype == torch.int64
    written = noise(12, 32, 32, 3)[[0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]]
    assert np.array_equal(images.take(torch.arange(12)), written.transpose(0, 3, 1, 2))


def test_zip_and_folder_give_the_same_images_and_fingerprints(get, animals, tmp_path):
    path = zip_folder(animals, tmp_path / "animals.ZIP")
    for memory in (1, 0):
        folder, zipped = get("images", path=animals, memory=memory), get("images", path=path, memory=memory)
        assert folder.fingerprint == zipped.fingerprint and len(folder.fingerprint) == 16
        assert torch.equal(folder.take(torch.arange(12)), zipped.take(torch.arange(12)))


def test_fingerprint_follows_content_and_request(get, animals):
    prints = [get("images", path=animals).fingerprint]
    prints += [get("images", path=animals, **changed).fingerprint for changed in ({"limit": 5}, {"limit": 6})]
    prints += [get("images", path=animals, limit=5, seed=1).fingerprint]
    prints += [get("images", path=animals, **changed).fingerprint for changed in ({"size": 16}, {"channels": 1})]
    write(animals / "cat" / "00.png", encode(noise(32, 32, 3, seed=9)))
    prints += [get("images", path=animals).fingerprint]
    assert len(set(prints)) == len(prints)


def test_limit_is_a_seeded_sorted_subset(get, animals):
    whole = get("images", path=animals).take(torch.arange(12))
    for memory in (1, 0):
        images = get("images", path=animals, limit=5, seed=3, memory=memory)
        drawn = torch.randperm(12, generator=torch.Generator().manual_seed(3))[:5].sort().values
        assert torch.equal(images.take(torch.arange(5)), whole[drawn])
        assert torch.equal(images.labels, (drawn >= 6).long())


@pytest.mark.parametrize("limit", [0, -1, 13])
def test_a_limit_that_cannot_be_is_refused(limit, get, animals):
    with pytest.raises(NoSplit, match=r"1 to 12"):
        get("images", path=animals, limit=limit)


@pytest.mark.parametrize("zipped", [False, True])
def test_cache_serves_until_the_source_is_touched(zipped, get, animals, tmp_path, monkeypatch):
    path = zip_folder(animals, tmp_path / "animals.zip") if zipped else animals
    first = get("images", path=path)
    with monkeypatch.context() as patch:
        patch.setattr(bdiff.data.load, "decode", no_decoding)
        second = get("images", path=path)
        assert second.fingerprint == first.fingerprint
        assert torch.equal(second.take(torch.arange(12)), first.take(torch.arange(12)))
        touched = path if zipped else path / "cat" / "00.png"
        os.utime(touched, (1, 1))
        with pytest.raises(AssertionError, match="decoded again"):
            get("images", path=path)
    assert get("images", path=path).fingerprint == first.fingerprint


def test_a_cached_dataset_over_the_memory_limit_streams(get, animals):
    get("images", path=animals)
    assert type(get("images", path=animals, memory=0)).__name__ == "StreamedImages"


def test_formats_in_any_case_and_hidden_files(get, tmp_path):
    pixels = noise(32, 32, 3)
    for name, format in {"a.PNG": "PNG", "b.jpg": "JPEG", "c.JPEG": "JPEG", "d.Webp": "WEBP", "e.bmp": "BMP"}.items():
        write(tmp_path / "flat" / name, encode(pixels, format))
    for name in ("._a.png", "__MACOSX/a.png", ".hidden/a.png", "notes.txt"):
        write(tmp_path / "flat" / name, b"not a picture")
    images = get("images", path=tmp_path / "flat")
    assert len(images) == 5 and images.classes == ("unlabelled",)
    assert np.array_equal(images.take(torch.tensor([0, 4])), pixels.transpose(2, 0, 1)[None].repeat(2, 0))


def test_crop_is_central_and_resize_averages(get, tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    for name, pixels in {"wide": wide, "tall": wide.transpose(1, 0, 2)}.items():
        write(tmp_path / "shapes" / f"{name}.png", encode(pixels))
    images = get("images", path=tmp_path / "shapes", size=10)
    assert images.take(torch.arange(2)).unique(dim=0).shape[0] == 1
    assert images.take(torch.arange(1))[0, :, 5, 5].tolist() == [10, 200, 30]
    assert (images.take(torch.arange(1)) == torch.tensor([10, 200, 30]).view(1, 3, 1, 1)).all()


def test_grey_and_rgb_convert_into_each_other(get, tmp_path):
    grey, red = noise(32, 32), np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    write(tmp_path / "mixed" / "a.png", encode(grey))
    write(tmp_path / "mixed" / "b.png", encode(red))
    both = torch.arange(2)
    rgb, single = get("images", path=tmp_path / "mixed"), get("images", path=tmp_path / "mixed", channels=1)
    assert np.array_equal(rgb.take(both)[0], np.stack([grey] * 3))
    assert np.array_equal(single.take(both)[0, 0], grey)
    assert single.shape == (1, 32, 32) and single.take(both)[1].unique().tolist() == [76]  # .299 * 255


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("root", "held_out"), [("", "test"), ("wrapper/", "val")])
def test_split_picks_among_train_and_test_folders(zipped, root, held_out, get, tmp_path):
    for number, name in enumerate(["train/cat/1", "train/dog/2", "train/dog/3", f"{held_out}/dog/4"]):
        write(tmp_path / "s" / f"{root}{name}.png", encode(noise(32, 32, 3, seed=number)))
    path = zip_folder(tmp_path / "s", tmp_path / "s.zip") if zipped else tmp_path / "s"
    sizes = {split: len(get("images", path=path, split=split)) for split in ("train", "test", "all")}
    assert sizes == {"train": 3, "test": 1, "all": 4}


def test_a_path_without_split_folders_is_taken_whole(get, animals):
    assert len(get("images", path=animals, split="test")) == 12


def test_edm_zip_takes_its_classes_from_dataset_json(get, edm_zip):
    images = get("images", path=edm_zip)
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2] and images.classes == ("0", "1", "2")


@pytest.mark.parametrize(("labels", "message"), [(None, None), ([["00000/img00000000.png", 1]], "dataset.json")])
def test_edm_zip_without_labels_has_one_class_and_with_some_missing_is_refused(labels, message, get, tmp_path):
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        for number in range(2):
            archive.writestr(f"0000{number}/img0000000{number}.png", encode(noise(32, 32, 3)))
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    if message is None:
        assert get("images", path=tmp_path / "e.zip").classes == ("unlabelled",)
    else:
        with pytest.raises(RequestError, match=message):
            get("images", path=tmp_path / "e.zip")


def test_celebahq_folder_leaves_the_masks_out(get, tmp_path):
    for number in range(3):
        write(tmp_path / "C" / "CelebA-HQ-img" / f"{number}.jpg", encode(noise(300, 300, 3, seed=number), "JPEG"))
        write(tmp_path / "C" / "CelebAMask-HQ-mask-anno" / "0" / f"{number}_skin.png", encode(noise(64, 64)))
    images = get("celebahq", path=tmp_path / "C")
    assert (len(images), images.shape) == (3, (3, 256, 256))
    assert len(get("celebahq", path=tmp_path / "C" / "CelebA-HQ-img")) == 3


def test_data_in_the_cache_folder_need_no_path(get, animals, tmp_path):
    (tmp_path / "cache").mkdir()
    animals.rename(tmp_path / "cache" / "celebahq")
    assert len(get("celebahq", size=32)) == 12


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there")
def test_cifar10_jpegs_of_the_shared_zip(get):
    images = get("cifar10", path=SHARED, split="test", limit=500)
    assert (len(images), images.shape, len(images.classes)) == (500, (3, 32, 32), 10)
    assert images.classes[0] == "airplane" and set(images.labels.tolist()) == set(range(10))
    assert 0.4 < images.take(torch.arange(500)).float().div(255).mean() < 0.55  # CIFAR-10's mean is .473
