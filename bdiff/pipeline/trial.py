"""What a shield is tried on: test images, the same attacked and with the trigger, and the classifier it shields."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from bdiff.adversary.pgd import Ball, apgd, pgd
from bdiff.classifier.base import Classifier
from bdiff.common.errors import RequestError
from bdiff.common.progress import Meter, progress
from bdiff.common.seeds import generator, seed_of
from bdiff.data.base import Images, to_float
from bdiff.defense.base import Defense, Eps, LabelShield, Logits, RadiusShield
from bdiff.defense.shields import strip
from bdiff.metric.fid.images import same
from bdiff.pipeline.classifier import held_out, train_classifier, unseen
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.prepare import plain, without
from bdiff.pipeline.suspect import method, suspect_of
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)

BATCHES = "batches"  # the folder of a growing stage that keeps what it has so far


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


def examine(run: Experiment) -> None:
    """Raise RequestError if a shield is asked for that the run's data cannot be tried with; before any training.

    Warns of a purification that adds far less noise than its adversary does: settings of other data's.
    """
    if run.config.defense._target_:
        examined(method(run.config.defense), run)


@singledispatch
def examined(defense: Defense, run: Experiment) -> None:
    """Examine the data for a defense of its role: only shields ask anything of them."""


@examined.register
def _(defense: RadiusShield, run: Experiment) -> None:
    test_rows(run)


@examined.register
def _(defense: LabelShield, run: Experiment) -> None:
    config = run.config.defense
    weak = (
        defense.noise_problem(run.diffusion.schedule, config.adversary.eps) if config.adversary.norm == "linf" else None
    )
    if weak:
        log.warning(
            "%s, and the adversary up to %.2g: for 32 px and 1000 timesteps there is defense=purification_cifar10, and "
            "attack=diff2_cifar10",
            weak,
            config.adversary.eps,
        )
    count = min(config.images, len(test_rows(run)[1]))
    if config.strip.overlays:
        try:
            strip.threshold(torch.zeros(count // 2), config.strip.false_positive_rate)
        except ValueError as error:
            raise RequestError(f"defense.strip takes its threshold from half of {count} images: {error}") from error


def test_rows(run: Experiment) -> tuple[Images, Tensor, str]:
    """Return a dataset, which of its rows (n,) a shield may be tried on, and what these are, in words.

    The test split, where training left one aside, but for classes that training lacks; else what the classifier did
    not see. Raises RequestError if the data have one class.
    """
    images = run.images
    if images.of_one_class:
        raise RequestError(f"data {images.name} has one class, so there is nothing to classify: choose other data")
    if images.split == "train" and (others := test_split(run)) is not None:
        known, rows = as_trained(others, images.classes)
        lacking = [others.classes[label] for label in others.labels[known.labels < 0].unique()]
        if lacking:
            named = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
            without = f"{len(others) - len(rows)} images of classes that training lacks ({named})"
            log.warning("%s test: left out %s", others.name, without)
        if len(rows):
            return known, rows, f"{others.name} test" + (f" without {without}" if lacking else "")
    kept, _ = held_out(run.config.classifier, len(images))
    return images, kept, f"{images.name} {images.split}, which the denoisers saw: {unseen(run.config.classifier)}"


def as_trained(others: Images, classes: tuple[str, ...]) -> tuple[Images, Tensor]:
    """Return `others` labelled by training's `classes`, -1 for any other, and which rows (n,) have one of these."""
    number = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([number.get(name, -1) for name in others.classes])[others.labels]
    return replace(others, labels=labels, classes=classes), (labels >= 0).nonzero().flatten()


def test_split(run: Experiment) -> Images | None:
    """Return the test split, limited as the data are, or whole if it has fewer images; None if there is none."""
    for limit in dict.fromkeys((run.config.data.limit, None)):
        try:
            others = run.data.load(split="test", limit=limit)
        except RequestError as problem:
            log.info("no test split of %s (%s)", "so many images" if limit else run.images.name, problem)
        else:
            return None if same(run.images, others) else others
    return None


def trial(run: Experiment) -> EvalSet:
    """Return the clean and the triggered images of conf/defense, chosen by its seed, and the run's classifier."""
    config = run.config.defense
    classifier, facts = train_classifier(run.stages, run.images, run.config.classifier)
    images, rows, words = test_rows(run)
    order = torch.randperm(len(rows), generator=generator(config.seed, "test images"))[: config.images]
    indices = rows[order].sort().values
    x = to_float(images.take(indices)).cpu()
    return EvalSet(
        classifier.requires_grad_(False),
        facts,
        images.classes,
        words,
        indices,
        images.labels[indices],
        {"clean": x, "triggered": run.attack.apply(x)},
    )


def adversarial(run: Experiment, on: EvalSet) -> Tensor:
    """Return the clean images (K,C,H,W) as PGD on the classifier alone changes them, kept by the first process."""
    config = run.config.defense
    alone = on.among({"clean": on.inputs["clean"]}).identity
    stage = run.stages.stage("shield", what="adversarial", adversary=adversary_key(config), seed=config.seed, **alone)
    with run.stages.missing(stage, "adversarial") as missing:
        if missing:

            def attacked(part: slice) -> Tensor:
                x, y = on.inputs["clean"][part].to(run.stages.device), on.labels[part].to(run.stages.device)
                return attack(on.classifier, x, y, on.indices[part].tolist(), config.adversary, config.seed, "pgd")

            with progress("adversarial", len(on.labels), unit="images", every=run.config.runtime.progress) as meter:
                x = by_batch(stage.folder / BATCHES, len(on.labels), config.batch_size, attacked, meter)
            with artifacts.atomic(stage.folder / "images.safetensors") as scratch:
                save_file({"x": x}, scratch)
            shutil.rmtree(stage.folder / BATCHES)
            run.stages.end(stage)
    return load_file(stage.folder / "images.safetensors")["x"]


def adversary_key(config: DictConfig) -> dict[str, Any]:
    """Return conf/defense's adversary for keys: APGD chooses its steps' length, and its answers depend on the batch."""
    if config.adversary.method == "apgd":
        return without(config.adversary, "step") | {"batch_size": config.batch_size}
    return plain(config.adversary)


def attack(
    logits: Logits,
    x: Tensor,  # (B,C,H,W) in [-1,1]
    y: Tensor,  # (B,) int64
    indices: list[int],  # of the images in their dataset
    settings: DictConfig,  # method, norm, eps, step (of PGD alone) and steps
    seed: int,
    purpose: str,  # of the random numbers
    eot: int = 1,
) -> Tensor:
    """Return the images as the adversary of the settings changes them, see `bdiff.adversary.pgd`."""
    ball, steps = Ball(settings.norm, settings.eps), settings.steps
    if settings.method == "apgd":
        return apgd(logits, x, y, ball=ball, steps=steps, eot=eot, seed=seed_of(seed, purpose, *indices))
    starts = [generator(seed, purpose, index) for index in indices]
    return pgd(logits, x, y, ball=ball, step=settings.step, steps=steps, eot=eot, generator=starts)


def facts(run: Experiment, on: EvalSet) -> dict[str, Any]:
    """Return what the protocol says of any shield."""
    config = run.config.defense
    about = {"images": len(on.labels), "of": on.source, "seed": config.seed, "precision": config.precision}
    return about | {"classifier": on.facts, "marks": run.marks}


def row_stage(run: Experiment, on: EvalSet, what: str, models: list[Stage], **settings: Any) -> Stage:
    """Return the stage of a row of a shield's table: `what` is done, and with which models and settings."""
    return run.stages.stage(
        "shield",
        what=what,
        models=[model.key for model in models],
        schedule=run.diffusion.key if models else None,
        precision=run.config.defense.precision if models else None,
        seed=run.config.defense.seed,
        **on.identity,
        **settings,
    )


def networks_left(stages: dict[str, Stage], rows: dict[str, list[Stage]]) -> int:
    """Return how many networks there are to be asked in rows that are not finished; rows with the same key are one."""
    return sum({stage.key: len(rows[row]) for row, stage in stages.items() if stage.manifest is None}.values())


def denoiser(run: Experiment, models: list[Stage], recompute: bool = False) -> Eps:
    """Return the mean noise that models predict; with `recompute`, gradients through it take less memory."""
    suspects = [suspect_of(model, run.diffusion, run.config.defense.precision, recompute) for model in models]
    return lambda x, t: torch.stack([suspect.eps(x, t) for suspect in suspects]).mean(0)


def by_batch(folder: Path, count: int, size: int, make: Callable[[slice], Tensor], meter: Meter) -> Tensor:
    """Return `make` of every batch of `count` rows, joined; kept in `folder` as they come, so that none is made twice.

    `size` is the batch's, and changes no number.
    """
    parts = []
    for first in range(0, count, size):
        last = min(first + size, count)
        path = folder / f"{first}-{last}.safetensors"
        if not artifacts.whole(path):
            part = make(slice(first, last)).cpu().contiguous()
            with artifacts.atomic(path) as scratch:
                save_file({"part": part}, scratch)
        parts.append(load_file(path)["part"])
        meter.advance(last - first)
    return torch.cat(parts)


def announce(run: Experiment, name: str, evaluations: int, ask: Callable[[Tensor], Any], batch: Tensor) -> None:
    """Log what is to come: so many images shown to the network, and an estimate of the time from one batch on it."""

    def timed() -> float:
        began = time.monotonic()
        ask(batch)
        if run.stages.device.type == "cuda":
            torch.cuda.synchronize(run.stages.device)
        return time.monotonic() - began

    with torch.inference_mode():
        timed()  # the first is slower than those that follow
        seconds = timed() * evaluations / len(batch)
    log.info("%s: %s images to be shown to the network, about %.3g s", name, f"{evaluations:,}", seconds)
