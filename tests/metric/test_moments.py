"""Statistics in .npz files, whole and broken; presets, and where a request falls short of them."""

import numpy as np
import pytest
import torch
from toys import images

from bdiff.common.errors import RequestError
from bdiff.metric.fid import moments
from bdiff.metric.fid.images import reference_images
from bdiff.metric.fid.moments import Moments
from bdiff.metric.fid.protocol import PRESETS, shortfalls, singular

MU, SIGMA = np.arange(3.0), np.eye(3)


def test_what_is_written_is_read(tmp_path):
    moments.write(tmp_path / "a.npz", Moments(MU, SIGMA, 7))
    found = moments.read(tmp_path / "a.npz", 3)
    np.testing.assert_array_equal(found.mu, MU)
    np.testing.assert_array_equal(found.sigma, SIGMA)
    assert found.count == 7


def test_published_files_may_hold_more_and_in_float32(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", mu=MU.astype(np.float32), sigma=SIGMA.astype(np.float32), mu_s=MU)
    found = moments.read(tmp_path / "a.npz")
    assert found.mu.dtype == found.sigma.dtype == np.float64
    assert found.count is None


BAD = [
    ({"mu": MU}, "has no sigma"),
    ({"arr_0": MU}, "has no mu and no sigma"),
    ({"mu": MU, "sigma": SIGMA[:2]}, r"sigma \(2, 3\)"),
    ({"mu": SIGMA, "sigma": SIGMA}, r"mu has the shape \(3, 3\)"),
    ({"mu": MU * np.nan, "sigma": SIGMA}, "non-finite"),
    ({"mu": MU, "sigma": np.full((3, 3), np.inf)}, "non-finite"),
    ({"mu": np.array([{}], dtype=object), "sigma": SIGMA}, "pickle"),
    ({"mu": np.array(["a", "b", "c"]), "sigma": SIGMA}, "could not convert"),
    ({"mu": MU[:2], "sigma": SIGMA[:2, :2]}, "of 2 features, and metric/fid=inception has 3"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD, ids=[message for _, message in BAD])
def test_a_file_of_other_arrays_is_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(RequestError, match=message) as caught:
        moments.read(tmp_path / "a.npz", 3)
    assert "metric.fid.reference=" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        moments.read(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(RequestError, match=r"not a \.npz"):
        moments.read(tmp_path / "a.npz")
    np.savez(tmp_path / "whole.npz", mu=MU, sigma=SIGMA)
    (tmp_path / "a.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    with pytest.raises(RequestError, match=r"metric\.fid\.reference="):
        moments.read(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", MU)
    with pytest.raises(RequestError, match=r"not a \.npz"):
        moments.read(tmp_path / "a.npy")


WHOLE = {"samples": 50_000, "reference": 50_000, "dimensions": 2048, "limited": False, "published": False}


def marked(name: str, **changed) -> list[str]:
    facts = WHOLE | changed
    dimensions = facts.pop("dimensions")
    return [*shortfalls(name, **facts), *singular(name, facts["samples"], facts["reference"], dimensions)]


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_is_marked_where_nothing_is_missing(name):
    assert marked(name) == []


MARKS = [
    ("bdiff", {"samples": 256}, ["fewer samples (256) than the protocol's 10000", "than feature dimensions (2048)"]),
    ("bdiff", {"samples": 9_999}, ["fewer samples (9999) than the protocol's 10000"]),
    ("baddiffusion", {"samples": 2_047}, ["the protocol's 2048", "fewer samples (2047) than feature dimensions"]),
    ("baddiffusion", {"dimensions": 4096}, ["fewer samples (2048) than feature dimensions (4096)"]),
    ("pytorch_fid", {"samples": 2_047}, ["fewer samples (2047) than feature dimensions"]),
    ("bdiff", {"reference": 64, "limited": True}, ["cut to 64 images by data.limit", "fewer reference images (64)"]),
    ("pytorch_fid", {"reference": 64, "limited": True}, ["fewer reference images (64)"]),
    ("bdiff", {"reference": None, "published": True}, ["the reference is a file's"]),
    ("pytorch_fid", {"reference": None, "published": True}, []),
]


@pytest.mark.parametrize(("name", "changed", "marks"), MARKS)
def test_what_is_missing_is_marked(name, changed, marks):
    found = marked(name, **changed)
    assert len(found) == len(marks)
    assert all(words in mark for words, mark in zip(marks, found, strict=True))


def test_the_reference_is_loaded_only_where_it_is_another_split():
    ours, others = images(20), images(30)
    asked = []

    def load(split):
        asked.append(split)
        return others

    assert reference_images(ours, None, load) is ours
    assert reference_images(ours, "train", load) is ours
    assert asked == []
    assert reference_images(ours, "all", load) is others
    assert asked == ["all"]


def test_data_without_splits_are_their_own_reference():
    ours = images(20)
    again = images(20)
    assert reference_images(ours, "all", lambda split: again) is ours
    again.pixels[3] = 255 - again.pixels[3]
    assert torch.equal(ours.pixels, images(20).pixels)
    assert reference_images(ours, "all", lambda split: again) is again


def test_a_reference_that_cannot_be_had_is_reported():
    def load(split):
        raise RequestError("no such split")

    with pytest.raises(RequestError, match=r"metric\.fid\.protocol .* split all, .* \(no such split\)"):
        reference_images(images(20), "all", load)
