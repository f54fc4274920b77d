"""One set of images behind another, in memory or streamed."""

import pickle

import pytest
import torch

from bdiff.data.base import TensorImages, batches
from bdiff.data.joined import Joined, joined, of_class


@pytest.fixture(
    params=[(1, 1), (0, 1), (1, 0), (0, 0)], ids=["memory", "first streamed", "second streamed", "streamed"]
)
def pair(request, get, animals):
    """Two sets of the same shape, of which either may be streamed."""
    first, second = request.param
    other = get("digits", memory=second, channels=3, size=24, limit=9)
    return get("images", path=animals, memory=first, size=24), other


def test_the_second_s_images_follow_the_first_s_with_classes_of_their_own(pair):
    first, second = pair
    both = joined(first, second)
    assert type(both) is (TensorImages if all(isinstance(one, TensorImages) for one in pair) else Joined)
    assert len(both) == 12 + 9 and both.classes == ("cat", "dog", *second.classes)
    assert torch.equal(both.labels, torch.cat([first.labels, 2 + second.labels]))
    assert (both.name, both.split, both.flip) == (first.name, first.split, first.flip)
    rows = torch.tensor([20, 0, 12, 11])
    expected = torch.cat([second.take(rows[:1] - 12), first.take(rows[1:2]), second.take(rows[2:3] - 12),
                          first.take(rows[3:])])  # fmt: skip
    assert torch.equal(both.take(rows), expected)
    part = both.subset(torch.tensor([3, 11, 12, 15]))
    assert torch.equal(part.take(torch.tensor([2, 1])), both.take(torch.tensor([12, 11])))
    assert torch.equal(part.labels, both.labels[[3, 11, 12, 15]])


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_decode_both(pair, workers):
    both = joined(*pair)
    rows = list(torch.arange(21).split(8))
    found = torch.cat(list(batches(both, rows, "cpu", workers)))
    assert torch.equal(found, both.take(torch.arange(21)))
    assert torch.equal(pickle.loads(pickle.dumps(both)).take(rows[1]), both.take(rows[1]))


def test_fingerprints_tell_what_is_joined_and_nothing_changes_nothing(get, animals):
    first, second = get("images", path=animals, size=24), get("digits", channels=3, size=24, limit=9)
    assert joined(first, None) is first
    prints = {one.fingerprint for one in (first, second, joined(first, second), joined(second, first))}
    assert len(prints) == 4


def test_the_images_of_one_class_are_data_without_others(get, animals):
    images = get("images", path=animals, size=24)
    dogs = of_class(images, 1)
    assert (dogs.classes, dogs.labels.tolist(), dogs.of_one_class) == (("dog",), [0] * 6, True)
    assert torch.equal(dogs.take(torch.arange(6)), images.take((images.labels == 1).nonzero()[:, 0]))
    assert len({images.fingerprint, dogs.fingerprint, of_class(images, 0).fingerprint}) == 3
