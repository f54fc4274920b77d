"""How long a stage would take and how much of the device: counted operations and bytes, and a rate measured here."""

import json
from dataclasses import dataclass
from functools import cache

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bdiff.diffusion.cost import Scratch, operations, rate, scratch
from bdiff.pipeline.classifier import build_classifier
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.planned import REUSED, Step
from bdiff.pipeline.prepare import without
from bdiff.pipeline.stages import STATE
from bdiff.pipeline.work import CLASSIFIER, DENOISER, FORTH, Asked, asked
from bdiff.store.provenance import device_name

FP32 = 4  # bytes of a number
STATES = {"adam": 2, "adamw": 2, "sgd": 1}  # numbers of an optimizer's state beside each weight
#: operations of InceptionV3 for an image (Szegedy et al. 2015, arXiv 1512.00567: 5.7 G multiplications with additions)
INCEPTION = 11.4e9


@dataclass(frozen=True)
class Row:
    """A stage of a plan."""

    name: str
    key: str
    state: str  # new, goes on or reused
    words: str  # what there is to do
    seconds: float | None  # that are left; None if unknown
    bytes: float | None  # on the device; None if unknown


@dataclass(frozen=True)
class Network:
    """A denoiser by its architecture, hashable."""

    arguments: str  # of diffusers' UNet2DModel, as JSON
    shape: tuple[int, ...]  # (C,H,W)

    def make(self) -> nn.Module:
        """Return one with fresh weights."""
        return UNet2DModel(**json.loads(self.arguments)).eval()


@cache
def size(of: Network) -> tuple[int, int]:
    """Return how many weights a network has, and the operations of a pass forth of an image."""
    with torch.device("meta"):
        made = of.make()
        work = operations(made, torch.empty((1, *of.shape)), torch.zeros(1, dtype=torch.long))
    return sum(weight.numel() for weight in made.parameters()), work


@cache
def scratch_of(of: Network, precision: str, gradients: bool) -> Scratch:
    """Return the bytes of a pass through a network, see `bdiff.diffusion.cost.scratch`."""
    with FakeTensorMode():
        return scratch(of.make(), of.shape, precision, gradients)


@cache
def rate_of(of: Network, precision: str, device: torch.device) -> float:
    """Return the operations per second of a network on a device."""
    return rate(of.make(), of.shape, precision, device, size(of)[1])


def network(run: Experiment) -> Network:
    """Return the run's denoiser."""
    return Network(json.dumps(without(run.config.model.unet, "_target_")), run.diffusion.shape)


def estimate(run: Experiment, step: Step) -> Row:
    """Return a stage with its estimates; one that is reused takes nothing."""
    if step.state == REUSED:
        return Row(step.name, step.stage.key, step.state, "", 0.0, 0.0)
    work = asked(run, step)
    if work is None:
        return Row(step.name, step.stage.key, step.state, "unknown", None, None)
    images, seconds = max(0, work.images - done(step, work)), 0.0
    if images:
        each = work.passes * cost_of(run, work.network, step.name)
        seconds = images * each / rate_of(network(run), work.precision, run.stages.device)
    return Row(step.name, step.stage.key, step.state, work.words, seconds, memory(run, work))


def done(step: Step, work: Asked) -> int:
    """Return how many images a stage that goes on has been shown already: of trainings and samples, none of others."""
    folder = step.stage.folder
    if work.training:
        steps = [int(path.stem) for path in (folder / STATE).glob("*.pt") if path.stem.isdecimal()]
        return max(steps, default=0) * work.batch
    if step.stage.name != "sample":
        return 0
    parts = step.stage.parts
    batches = -(-max(parts["counts"].values()) // parts["sample"]["batch_size"])
    return work.images * len([*(folder / "shards").glob("*.safetensors")]) // batches


def cost_of(run: Experiment, kind: str, name: str) -> float:
    """Return the operations of a pass forth of an image through the network of a stage called `name`."""
    features = run.measures.features
    if kind == DENOISER:
        return size(network(run))[1]
    if kind != CLASSIFIER and features is not None:
        return INCEPTION
    model = build_classifier(run.images, run.config[name if name == "surrogate" else "classifier"], name)
    return operations(model.to("meta"), torch.empty((1, *run.diffusion.shape), device="meta"))


def memory(run: Experiment, work: Asked) -> float | None:
    """Return the bytes that a stage takes of the device; None where it is not the denoiser that takes most."""
    if work.network != DENOISER:
        return None
    one, train = network(run), work.training
    gradients = work.passes > FORTH
    numbers = 1 + (1 + STATES[train.optimizer] + (train.ema is not None) if train else 0)
    scratched = scratch_of(one, work.precision, gradients).of(work.batch) if work.images else 0
    return numbers * FP32 * size(one)[0] + scratched


def basis(run: Experiment, steps: list[Step]) -> list[str]:
    """Return what the estimates rest on, in lines."""
    one, device = network(run), run.stages.device
    weights, forward = size(one)
    lines = [f"network: {weights / 1e6:.3g} M weights, {forward / 1e9:,.3g} GFLOP a forward pass of an image"]
    left = [asked(run, step) for step in steps if step.state != REUSED]
    for precision in sorted({work.precision for work in left if work and work.images}):
        found = rate_of(one, precision, device)
        lines.append(f"here: {found / 1e9:,.3g} GFLOP/s in {precision}, on {device_name(device)}")
    return lines
