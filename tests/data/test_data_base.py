"""Streamed and in-memory images are the same images; pixels and floats map onto each other."""

import pickle

import pytest
import torch
from data_archives import zip_folder

from bdiff.common.errors import RequestError
from bdiff.data.base import StreamedImages, TensorImages, batches, to_float, to_uint8


def test_every_pixel_value_survives_the_way_to_float_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert to_float(pixels)[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    assert to_uint8(torch.tensor([-7.0, 7.0, 0.0])).tolist() == [0, 255, 128]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["animals", "zip", "lsun", "cifar10_tar"])
def test_streamed_images_equal_those_in_memory(name, workers, get, request, tmp_path):
    if name == "zip":
        path = zip_folder(request.getfixturevalue("animals"), tmp_path / "a.zip")
    else:
        path = request.getfixturevalue(name)
    data = {"lsun": "lsun_bedroom", "cifar10_tar": "cifar10"}.get(name, "images")
    whole, streamed = get(data, path=path, size=24), get(data, path=path, size=24, memory=0)
    assert isinstance(whole, TensorImages)
    assert isinstance(streamed, StreamedImages)
    assert torch.equal(whole.labels, streamed.labels)
    assert whole.classes == streamed.classes and whole.shape == streamed.shape
    rows = list(torch.randperm(len(whole)).split(3))
    streamed.take(rows[0])  # opens in this process what workers must open again
    pairs = zip(batches(whole, iter(rows), "cpu", 0), batches(streamed, iter(rows), "cpu", workers), strict=True)
    for (expected, found), chosen in zip(pairs, rows, strict=True):
        assert found.dtype == torch.uint8 and found.shape == (len(chosen), 3, 24, 24)
        assert torch.equal(found, expected)


def test_rows_are_asked_for_lazily(get, animals):
    asked = []

    def rows():
        for row in range(12):
            asked.append(row)
            yield torch.tensor([row])

    for memory in (1, 0):
        asked.clear()
        next(batches(get("images", path=animals, memory=memory), rows(), "cpu", 0))
        assert len(asked) < 3


def test_streamed_images_pickle_after_use(get, animals):
    streamed = get("images", path=animals, memory=0)
    rows = torch.tensor([3, 1])
    expected = streamed.take(rows)
    assert torch.equal(pickle.loads(pickle.dumps(streamed)).take(rows), expected)


def test_pixels_move_and_labels_stay(get, animals):
    images = get("images", path=animals)
    moved = images.to("meta")
    assert moved.take(torch.tensor([0])).device.type == "meta"
    assert moved.labels.device.type == "cpu" and moved.fingerprint == images.fingerprint
    streamed = get("images", path=animals, memory=0)
    assert streamed.to("meta") is streamed


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_while_streaming_is_named_in_one_line(workers, get, animals):
    streamed = get("images", path=animals, memory=0)
    (animals / "cat" / "00.png").write_bytes(b"no picture")
    with pytest.raises(RequestError) as caught:
        list(batches(streamed, [torch.arange(12)], "cpu", workers))
    assert "cat/00.png" in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("memory", [1, 0])
def test_a_subset_is_these_images_in_this_order(memory, get, animals):
    images = get("images", path=animals, size=24, memory=memory)
    rows = torch.tensor([7, 0, 3])
    part = images.subset(rows)
    assert type(part) is type(images) and len(part) == 3
    assert torch.equal(part.labels, images.labels[rows])
    assert torch.equal(part.take(torch.tensor([2, 0])), images.take(torch.tensor([3, 7])))
    assert torch.equal(part.subset(torch.tensor([1])).take(torch.tensor([0])), images.take(torch.tensor([0])))
    assert len(images) > 3 and (part.shape, part.classes) == (images.shape, images.classes)
    (batch,) = batches(part, [torch.arange(3)], "cpu", 0)
    assert torch.equal(batch, images.take(rows))
