"""What the tests of several processes let them do, at toy sizes: all processes of a run call it alike."""

import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import toys
from diffusers import DDPMScheduler
from omegaconf import DictConfig, OmegaConf

from bdiff.classifier.small_cnn import SmallCNN
from bdiff.defense.shields import cohen
from bdiff.diffusion.mode import Costs
from bdiff.metric.fid.classifier import ClassifierFeatures
from bdiff.model import checkpoint
from bdiff.pipeline import shield_table
from bdiff.pipeline.certify import certified
from bdiff.pipeline.detect import invert
from bdiff.pipeline.eval_set import EvalSet
from bdiff.pipeline.measure import Measuring, distance_to_reference, measure
from bdiff.pipeline.prepare import Data
from bdiff.pipeline.sample import Sampling, clean, draw_samples, shifted
from bdiff.pipeline.shield import shielded
from bdiff.pipeline.shield_table import ShieldTable
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import Diffusion, method
from bdiff.store.artifacts import Stage
from bdiff.tracker.none import NoTracker

DEFENSES = Path(__file__).parents[1] / "conf" / "defense"
COUNT = 9  # images of a shield: an odd number


def stages(folder: Path) -> Stages:
    """The stages of a run on the CPU."""
    torch.set_num_threads(1)
    return Stages(folder, "cpu", NoTracker(), toys.LOOP, Costs(folder / "compiled"))


def diffusion() -> Diffusion:
    """A toy diffusion."""
    return Diffusion(toys.schedule(), {"name": "toy"}, toys.images().shape, torch.device("cpu"))


def model(run: Stages) -> Stage:
    """A denoiser, the same in every run."""
    stage = run.stage("train", of="toy")

    def build() -> dict[str, Any]:
        checkpoint.save(stage.folder / "model", toys.denoiser(), {})
        return {}

    run.once(stage, build)
    return stage


def classifier() -> SmallCNN:
    """A classifier of two classes with random weights, the same in every run."""
    torch.manual_seed(0)
    return SmallCNN(channels=1, classes=2, width=4).eval().requires_grad_(False)


def defense(name: str, **settings: Any) -> DictConfig:
    """An option of conf/defense with settings."""
    return OmegaConf.merge(OmegaConf.load(DEFENSES / f"{name}.yaml"), {"precision": "fp32"}, settings)


def table(run: Stages, config: DictConfig) -> ShieldTable:
    """What a shield is evaluated on."""
    x = toys.images().take(torch.arange(COUNT)) / 127.5 - 1
    net = classifier()
    labels = net(x).argmax(1)
    on = EvalSet(net, {"key": "toy"}, ("even", "odd"), "toys", 3 * torch.arange(COUNT), labels, {"clean": x})
    on = on.among({"clean": x, "triggered": toys.attack().apply(x)})
    one = model(run)
    return ShieldTable("toy", config, diffusion(), on, {"none": [], "suspect": [one], "clean": [one]})


def certify(folder: Path, killed: int | None = None) -> dict[str, float]:
    """Certify the toy images; the process `killed` kills itself at its third row."""
    config = defense("certification", n0=8, n=40, batch_size=60, stop="never", radii=[0.0, 0.1])
    run, text, rows = stages(folder), cohen.text, []

    def dying(row: cohen.Row) -> str:
        rows.append(row)
        if len(rows) == 3 and run.peers.rank == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return text(row)

    with mock.patch.object(cohen, "text", dying):
        return certified(run, method(config), table(run, config)).metrics


def purify(folder: Path, killed: int | None = None) -> dict[str, float]:
    """Purify the toy images and those of both adversaries, and check their entropies.

    The process `killed` kills itself at its ninth batch.
    """
    config = defense("purification", t=2, batch_size=2, repair=False)
    config.adversary.steps, config.adaptive.steps, config.adaptive.eot = 2, 1, 2
    config.strip.overlays, config.strip.false_positive_rate = 2, 0.4
    run, keep, batches = stages(folder), shield_table.keep, []

    def dying(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        batches.append(path)
        if len(batches) == 9 and run.peers.rank == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        keep(path, tensors)

    shown = table(run, config)
    with mock.patch.object(shield_table, "keep", dying):
        return shielded(method(config), run, shown, toys.attack(), toys.images()).metrics


def detect(folder: Path) -> dict[str, Any]:
    """Invert a trigger from three starts."""
    config = defense("purediffusion", restarts=1, probes=2, probe_draws=8, probe_rounds=2, steps=3, batch=2)
    config.threshold = None
    run = stages(folder)
    _, manifest = invert(run, model(run), method(config), config, diffusion(), 0)
    return manifest


def distance(folder: Path) -> dict[str, float]:
    """Measure samples over features, held against the toy images."""
    run, images = stages(folder), toys.images(45)
    sample = OmegaConf.create({"count": 43, "triggered": 5, "batch_size": 4, "steps": 2, "clip": True})
    sample.precision = "fp32"
    scheduler = DDPMScheduler(**toys.schedule().config)
    sampling = Sampling(diffusion(), scheduler, OmegaConf.create({"steps": 2, "step": {}}), sample, 0)
    kinds = {"clean": clean(), "triggered": shifted(toys.attack().trigger.pattern)}
    samples = draw_samples(run, sampling, model(run), kinds)
    metric = OmegaConf.create({"also": ["kid", "precision_recall"], "asr_threshold": None, "batch_size": 4})
    metric.fid = {"protocol": "pytorch_fid"}
    features = ClassifierFeatures(classifier(), {"key": "toy"})
    held = distance_to_reference(run, features, Data(images, None, lambda: images, images), None, metric, 43)
    how = Measuring(metric, sample, toys.attack().target, "toy", True, [], held, None)
    return measure(run, samples, how)["metrics"]
