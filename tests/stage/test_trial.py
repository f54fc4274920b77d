"""Which images a shield is tried on, by the classes of what the classifier was trained on."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from bdiff.data.base import TensorImages
from bdiff.pipeline.trial import test_rows as rows_of


def images(split: str, classes: tuple[str, ...], names: list[str]) -> TensorImages:
    """One picture of each of the classes in `names`, all different."""
    labels = torch.tensor([classes.index(name) for name in names])
    pixels = torch.arange(len(names), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return TensorImages(name="pets", split=split, classes=classes, labels=labels, shape=(1, 2, 2), flip=False,
                        fingerprint=split, pixels=pixels.clone())  # fmt: skip


def run_on(train: TensorImages, test: TensorImages) -> SimpleNamespace:
    """What `test_rows` asks of a run."""
    config = SimpleNamespace(
        classifier=SimpleNamespace(seed=0, val_fraction=0.5, get=lambda key: None, model={}),
        data=SimpleNamespace(limit=None),
    )
    data = SimpleNamespace(load=lambda **how: replace(test))
    return SimpleNamespace(images=train, config=config, data=data)


def test_test_images_are_labelled_as_training_is_and_others_left_out():
    train = images("train", ("cat", "dog"), ["cat", "dog", "dog"])
    test = images("test", ("ape", "cat", "dog"), ["ape", "dog", "cat", "ape", "dog"])
    found, rows, words = rows_of(run_on(train, test))
    assert found.classes == ("cat", "dog") and rows.tolist() == [1, 2, 4]
    assert found.labels[rows].tolist() == [1, 0, 1]
    assert words == "pets test without 2 images of classes that training lacks (ape)"


def test_the_same_classes_are_reported_in_no_word():
    train, test = images("train", ("a", "b"), ["a", "b"]), images("test", ("a", "b"), ["b", "a", "b"])
    found, rows, words = rows_of(run_on(train, test))
    assert (found.labels.tolist(), rows.tolist(), words) == ([1, 0, 1], [0, 1, 2], "pets test")


def test_a_test_split_without_classes_is_none():
    train = images("train", ("a", "b"), ["a", "b", "a", "b"])
    found, rows, words = rows_of(run_on(train, images("test", ("unlabelled",), ["unlabelled"] * 3)))
    assert found is train and len(rows) == 2 and words.startswith("pets train, which the denoisers saw")
