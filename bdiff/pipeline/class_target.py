"""A class as the attack's target: its images, and the classifier that says which samples are of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.classifier.base import Classifier
from bdiff.data.base import Images, batches, to_float
from bdiff.data.joined import joined, of_class
from bdiff.metric.base import MetricResult, first
from bdiff.metric.class_target import class_success, class_target, seen
from bdiff.pipeline.classifier import held_out, train_classifier, unseen
from bdiff.pipeline.eval_set import evaluation_rows, held_out_split
from bdiff.pipeline.prepare import Data
from bdiff.pipeline.reference import KEPT
from bdiff.pipeline.stages import Stages


@dataclass(frozen=True)
class ClassTarget:
    """The class that triggered samples should be of."""

    label: int  # by the classifier
    name: str
    classifier: Classifier  # of the run's data, with a class more where the target is of other data
    facts: dict[str, Any]  # of the classifier
    real: Images  # of the class, in training
    unseen: Images  # of the class, not in training
    source: str  # where those are from, in words

    @property
    def identity(self) -> list[Any]:
        """What keys say of it."""
        return [self.label, self.facts["key"], self.unseen.fingerprint, len(self.unseen)]

    @property
    def stated(self) -> dict[str, Any]:
        """What the protocol says of what is of the class."""
        return {"class": self.name, "classifier": self.facts}

    @torch.inference_mode()
    def hits(self, pixels: Tensor) -> Tensor:
        """Return which uint8 images (B,C,H,W) on the device are of the class, (B,) bool."""
        return self.classifier(to_float(pixels)).argmax(1) == self.label

    def success(self, samples: Iterator[Tensor]) -> dict[str, float]:
        """Return how many of the first uint8 `samples` (B,C,H,W) on the device are of the class."""
        return class_success(self.classifier, self.label, seen(self.classifier, first(samples, KEPT)))

    def measured(self, samples: Iterator[Tensor], size: int, marks: list[str]) -> MetricResult:
        """Return how far the first uint8 `samples` (B,C,H,W) on the device are of the class.

        Real images are shown to the classifier in batches of `size`; `marks` are for the protocol.
        """
        found = seen(self.classifier, first(samples, KEPT))

        def activations(images: Images) -> Tensor:
            rows = torch.arange(min(len(images), KEPT)).split(size) if len(images) else ()
            return seen(self.classifier, batches(images, rows, found.device, 0)) if rows else found[:0]

        values, facts = class_target(
            self.classifier, self.label, activations(self.real), activations(self.unseen), found
        )
        return MetricResult(values, self.stated | {"real": self.source, "marks": marks} | facts)


def target_class(stages: Stages, attack: Attack, data: Data, config: DictConfig) -> ClassTarget | None:
    """Return the class that the attack aims at, None where it aims at an image.

    The classifier of `config`, a node of conf/classifier, is trained on the run's data, and on the attack's `others`.
    """
    label = attack.label
    if label is None:
        return None
    images = joined(data.images, attack.others)
    named = "classifier" if attack.others is None else "class_judge"
    classifier, facts = train_classifier(stages, images, config, named)
    if attack.others is None:
        real = of_class(images, label)
        others, rows, words = evaluation_rows(data, config)
        found = others.subset(rows[others.labels[rows] == label])
    else:
        assert data.foreign is not None
        real = attack.others
        found, words = unseen_others(data.foreign, images, label, config)
    return ClassTarget(label, f"{images.classes[label]} of {real.name}", classifier, facts, real, found, words)


def unseen_others(foreign: Data, images: Images, label: int, config: DictConfig) -> tuple[Images, str]:
    """Return images of the class `label` of `images`, which is of the foreign data, and in words where they are from.

    The test split's, or if there is none those that the classifier did not see.
    """
    others, name = held_out_split(foreign), images.classes[label]
    if others is not None and name in others.classes:
        return of_class(others, others.classes.index(name)), f"{others.name} test"
    kept, _ = held_out(config, len(images))
    words = f"{foreign.images.name} {foreign.images.split}, which the denoiser saw: {unseen(config)}"
    return images.subset(kept[images.labels[kept] == label]), words
