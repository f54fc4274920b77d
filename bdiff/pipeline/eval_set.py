"""What a shield is evaluated on: test images, clean and with the trigger, and the classifier that it shields."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.classifier.base import Classifier
from bdiff.common.errors import RequestError
from bdiff.common.seeds import generator
from bdiff.data.base import Images, to_float
from bdiff.data.sources import NoSplit
from bdiff.defense.base import Defense, LabelShield, RadiusShield, Shield
from bdiff.defense.shields import strip
from bdiff.diffusion.schedule import Schedule
from bdiff.metric.fid.images import same
from bdiff.pipeline.classifier import held_out, train_classifier, unseen
from bdiff.pipeline.prepare import Data
from bdiff.pipeline.stages import Stages
from bdiff.store import artifacts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalSet:
    """K test images in several kinds, on the CPU, and the classifier they are shown to, on the device."""

    classifier: Classifier  # in eval mode, its weights frozen
    facts: dict[str, Any]  # of the classifier: its key, and its accuracy on what it was not trained on
    classes: tuple[str, ...]
    source: str  # where the images are from, in words
    indices: Tensor  # (K,) int64, the images' rows in their dataset: noise is drawn by them
    labels: Tensor  # (K,) int64
    inputs: dict[str, Tensor]  # by kind, (K,C,H,W) in [-1,1]

    def among(self, inputs: dict[str, Tensor]) -> "EvalSet":
        """Return the same with other kinds of inputs."""
        return replace(self, inputs=inputs)

    @property
    def identity(self) -> dict[str, Any]:
        """What keys say of it: the pictures themselves, wherever they come from."""
        return {
            "classifier": self.facts["key"],
            "images": artifacts.content(self.indices, self.labels),
            "inputs": {kind: artifacts.content(x) for kind, x in self.inputs.items()},
        }


def eval_set(stages: Stages, data: Data, classifier: DictConfig, config: DictConfig, attack: Attack) -> EvalSet:
    """Return the clean and the triggered images of conf/defense, chosen by its seed, and the trained classifier."""
    model, facts = train_classifier(stages, data.images, classifier)
    images, rows, words = evaluation_rows(data, classifier)
    order = torch.randperm(len(rows), generator=generator(config.seed, "test images"))[: config.images]
    indices = rows[order].sort().values
    x = to_float(images.take(indices)).cpu()
    return EvalSet(
        model.requires_grad_(False),
        facts,
        images.classes,
        words,
        indices,
        images.labels[indices],
        {"clean": x, "triggered": attack.apply(x)},
    )


@singledispatch
def examined(
    defense: Defense,
    config: DictConfig,  # conf/defense
    schedule: Schedule,
    attack: Attack,
    rows: Callable[[], Tensor],  # of the test images that a shield may be evaluated on; RequestError if there are none
) -> None:
    """Raise RequestError, before any training, if a shield cannot be used with the data, the schedule or the trigger.

    Warns of a purification that adds far less noise than its adversary does: settings of other data's. Other roles ask
    nothing of the data.
    """


@examined.register
def _(
    defense: RadiusShield, config: DictConfig, schedule: Schedule, attack: Attack, rows: Callable[[], Tensor]
) -> None:
    check(defense, schedule, attack)
    rows()


@examined.register
def _(defense: LabelShield, config: DictConfig, schedule: Schedule, attack: Attack, rows: Callable[[], Tensor]) -> None:
    check(defense, schedule, attack)
    weak = defense.noise_problem(schedule, config.adversary.eps) if config.adversary.norm == "linf" else None
    if weak:
        log.warning(
            "%s, and the adversary up to %.2g: for 32 px and 1000 timesteps there is defense=purification_cifar10, and "
            "attack=diff2_cifar10",
            weak,
            config.adversary.eps,
        )
    count = min(config.images, len(rows()))
    if config.strip.overlays:
        try:
            strip.threshold(torch.zeros(count // 2), config.strip.false_positive_rate)
        except ValueError as error:
            raise RequestError(f"defense.strip takes its threshold from half of {count} images: {error}") from error


def check(shield: Shield, schedule: Schedule, attack: Attack) -> None:
    """Raise RequestError if the schedule does not reach the noise that a shield adds, or a trigger hides the image."""
    try:
        shield.check(schedule)
    except ValueError as error:
        raise RequestError(str(error)) from error
    black, white = attack.apply(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).repeat(1, *attack.target.shape))
    if torch.equal(black, white):
        raise RequestError(
            "a shield is tested with triggered images, and this trigger covers the image, so all would be the same "
            "picture: use trigger=patch, or another that leaves some of it"
        )


def evaluation_rows(data: Data, classifier: DictConfig) -> tuple[Images, Tensor, str]:
    """Return a dataset, which of its rows (n,) a shield may be evaluated on, and what these are, in words.

    The test split, where training left one aside, but for classes that training lacks; else what the classifier did
    not see. Raises RequestError if the data have one class.
    """
    images = data.images
    if images.of_one_class:
        raise RequestError(f"data {images.name} has one class, so there is nothing to classify: choose other data")
    if images.split == "train" and (others := held_out_split(data)) is not None:
        known, rows = as_trained(others, images.classes)
        lacking = [others.classes[label] for label in others.labels[known.labels < 0].unique()]
        if lacking:
            named = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
            without = f"{len(others) - len(rows)} images of classes that training lacks ({named})"
            log.warning("%s test: left out %s", others.name, without)
        if len(rows):
            return known, rows, f"{others.name} test" + (f" without {without}" if lacking else "")
    kept, _ = held_out(classifier, len(images))
    return images, kept, f"{images.name} {images.split}, which the denoisers saw: {unseen(classifier)}"


def as_trained(others: Images, classes: tuple[str, ...]) -> tuple[Images, Tensor]:
    """Return `others` labelled by training's `classes`, -1 for any other, and which rows (n,) have one of these."""
    number = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([number.get(name, -1) for name in others.classes])[others.labels]
    return replace(others, labels=labels, classes=classes), (labels >= 0).nonzero().flatten()


def held_out_split(data: Data) -> Images | None:
    """Return the test split, limited as the data are, or whole if it has fewer images; None if there is none.

    Raises RequestError if there is one that cannot be read.
    """
    for limit in dict.fromkeys((data.limit, None)):
        try:
            others = data.load(split="test", limit=limit)
        except NoSplit as problem:
            log.info("no test split of %s (%s)", "so many images" if limit else data.images.name, problem)
        else:
            return None if same(data.images, others) else others
    return None
