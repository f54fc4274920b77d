"""Which images a shield is evaluated on, by the classes of what the classifier was trained on."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from bdiff.attack.none import NoAttack
from bdiff.common.errors import RequestError, named
from bdiff.config.options import own_settings
from bdiff.data.base import TensorImages
from bdiff.data.sources import NoSplit
from bdiff.diffusion.schedule import Schedule
from bdiff.pipeline.eval_set import evaluation_rows, examined
from bdiff.pipeline.prepare import Data
from bdiff.pipeline.suspect import method
from bdiff.trigger.base import Trigger


def images(split: str, classes: tuple[str, ...], names: list[str]) -> TensorImages:
    """One picture of each of the classes in `names`, all different."""
    labels = torch.tensor([classes.index(name) for name in names])
    pixels = torch.arange(len(names), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return TensorImages(name="pets", split=split, classes=classes, labels=labels, shape=(1, 2, 2), flip=False,
                        fingerprint=split, pixels=pixels.clone())  # fmt: skip


#: conf/classifier, as far as it is read
CLASSIFIER = OmegaConf.create({"seed": 0, "val_fraction": 0.5, "model": {}})


def data(train: TensorImages, test: TensorImages) -> Data:
    """The images of a run whose dataset has a test split."""
    return Data(train, None, lambda **how: replace(test), None)


def test_test_images_are_labelled_as_training_is_and_others_left_out():
    train = images("train", ("cat", "dog"), ["cat", "dog", "dog"])
    test = images("test", ("ape", "cat", "dog"), ["ape", "dog", "cat", "ape", "dog"])
    found, rows, words = evaluation_rows(data(train, test), CLASSIFIER)
    assert found.classes == ("cat", "dog") and rows.tolist() == [1, 2, 4]
    assert found.labels[rows].tolist() == [1, 0, 1]
    assert words == "pets test without 2 images of classes that training lacks (ape)"


def test_the_same_classes_are_not_mentioned():
    train, test = images("train", ("a", "b"), ["a", "b"]), images("test", ("a", "b"), ["b", "a", "b"])
    found, rows, words = evaluation_rows(data(train, test), CLASSIFIER)
    assert (found.labels.tolist(), rows.tolist(), words) == ([1, 0, 1], [0, 1, 2], "pets test")


def test_a_test_split_without_classes_is_none():
    train = images("train", ("a", "b"), ["a", "b", "a", "b"])
    found, rows, words = evaluation_rows(data(train, images("test", ("unlabelled",), ["unlabelled"] * 3)), CLASSIFIER)
    assert found is train and len(rows) == 2 and words.startswith("pets train, which the denoisers saw")


@pytest.mark.parametrize("limit", [None, 4])
def test_a_test_split_that_cannot_be_read_is_named_and_not_taken_for_none(limit):
    def load(error: RequestError, **how):
        with named("data.path", "attack.foreign_path"):
            raise error

    train = images("train", ("a", "b"), ["a", "b", "a", "b"])
    found, _, words = evaluation_rows(Data(train, limit, partial(load, NoSplit("none")), None), CLASSIFIER)
    assert found is train and words.startswith("pets train, which the denoisers saw")
    with pytest.raises(RequestError, match="one cannot be read"):
        evaluation_rows(Data(train, limit, partial(load, RequestError("one cannot be read")), None), CLASSIFIER)


def attack(corner: float) -> NoAttack:
    """A grey trigger, in one pixel of which the image shows where `corner` is 1."""
    mask = torch.zeros(1, 2, 2)
    mask[..., 0, 0] = corner
    return NoAttack(Trigger(torch.zeros(1, 2, 2), mask), torch.zeros(1, 2, 2))


@pytest.mark.parametrize(
    ("option", "message"),
    [("purification", r"defense\.t=\d+ is beyond"), ("certification", r"defense\.sigma=\S+ is beyond")],
)
def test_a_shield_that_the_schedule_does_not_reach_is_refused_before_its_images_are_read(option, message):
    config = OmegaConf.create(own_settings("defense", option))
    with pytest.raises(RequestError, match=message):
        examined(method(config), config, Schedule(5, 1e-4, 0.001, "linear"), attack(1.0), lambda: 1 / 0)


@pytest.mark.parametrize("option", ["purification", "certification"])
def test_a_shield_against_a_trigger_that_hides_the_image_is_refused_before_its_images_are_read(option):
    """Every triggered input would be one picture, and accuracies on them say how often that class occurs."""
    config, schedule = OmegaConf.create(own_settings("defense", option)), Schedule(100, 0.001, 0.1, "linear")
    with pytest.raises(RequestError, match="covers the image, so all would be the same picture: use trigger=patch"):
        examined(method(config), config, schedule, attack(0.0), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        examined(method(config), config, schedule, attack(1.0), lambda: 1 / 0)
