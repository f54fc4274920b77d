"""How long a stage would take and how much of the device: counted operations and bytes, and rates measured here."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, cast

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bdiff.common.device import autocast
from bdiff.config.instantiate import make
from bdiff.config.keys import plain
from bdiff.diffusion.cost import IMAGES, Scratch, operations, rate, scratch
from bdiff.diffusion.denoiser import predict
from bdiff.diffusion.memory import Memory, training_memory
from bdiff.pipeline.experiment import Experiment, Subject
from bdiff.pipeline.planned import REUSED, Step
from bdiff.pipeline.prepare import without
from bdiff.pipeline.stages import STATE
from bdiff.pipeline.work import CLASSIFIER, DENOISER, FEATURES, SURROGATE, Asked, asked
from bdiff.store.provenance import device_name

FP32 = 4  # bytes of a number
INCEPTION = (3, 299, 299)  # what images are resized to before they are shown to it


@dataclass(frozen=True)
class Row:
    """A stage of a plan."""

    name: str
    key: str
    state: str  # new, goes on or reused
    words: str  # what there is to do
    seconds: float | None  # that are left; None if unknown
    bytes: float | None  # on the device; None if unknown


class Total(NamedTuple):
    """What the stages of a plan take together, as far as that is known."""

    seconds: float
    bytes: float  # of the largest stage
    unknown: bool  # whether the seconds of some stage are unknown


def total(rows: Collection[Row]) -> Total:
    """Return what stages take together."""
    known = [row.seconds for row in rows if row.seconds is not None]
    return Total(sum(known), max((row.bytes or 0 for row in rows), default=0), len(known) < len(rows))


@dataclass(frozen=True)
class Network:
    """A network by its architecture."""

    kind: str  # see `bdiff.pipeline.work`
    settings: str  # of its constructor, as JSON
    shape: tuple[int, ...]  # (C,H,W) of an image
    classes: int = 0  # of a classifier

    def make(self) -> nn.Module:
        """Return one with fresh weights."""
        if self.kind == DENOISER:
            return UNet2DModel(**json.loads(self.settings)).eval()
        if self.kind == FEATURES:  # others than Inception's are taken for these
            from torchvision.models import inception_v3  # here, since it takes long to import

            return inception_v3(weights=None, init_weights=False).eval()
        return make(DictConfig(json.loads(self.settings)), channels=self.shape[0], classes=self.classes).eval()

    def call(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return what it makes of images x (B,C,H,W)."""
        if self.kind == DENOISER:
            return predict(network, x, torch.zeros(len(x), dtype=torch.long, device=x.device))
        return network(x)


def network(run: Subject, work: Asked | None = None) -> Network:
    """Return what a stage asks; the run's denoiser if it is none in particular."""
    kind = work.network if work else DENOISER
    if kind == DENOISER:
        return Network(kind, json.dumps(without(run.config.model.unet, "_target_")), run.diffusion.shape)
    run = cast(Experiment, run)
    if kind == FEATURES and run.measures.features is not None:
        return Network(kind, "", INCEPTION)
    node = SURROGATE if kind == SURROGATE else CLASSIFIER
    return Network(node, json.dumps(plain(run.config[node].model)), run.diffusion.shape, len(run.images.classes))


@cache
def size(of: Network) -> tuple[int, int]:
    """Return how many weights a network has, and the operations of a forward pass of an image."""
    made = of.make().to("meta") if of.kind != DENOISER else None
    with torch.device("meta"):
        made = made or of.make()
        work = operations(lambda x: of.call(made, x), torch.empty((1, *of.shape)))
    return sum(weight.numel() for weight in made.parameters()), work


@cache
def scratch_of(of: Network, precision: str, gradients: bool) -> Scratch:
    """Return the bytes of a pass through a denoiser, see `bdiff.diffusion.cost.scratch`."""
    with FakeTensorMode():
        return scratch(of.make().requires_grad_(False), of.shape, precision, gradients)


@cache
def training_of(
    of: Network, batch: int, precision: str, ema: float | None, micro_batch: int | None, recompute: bool
) -> Memory:
    """Return the bytes of a training of a denoiser."""
    return training_memory(of.make, of.shape, batch, precision, micro_batch, recompute, ema)


@cache
def rate_of(of: Network, precision: str, device: torch.device, batch: int = IMAGES) -> float:
    """Return the operations per second of a network on a device, with at most `batch` images at a time."""
    made = of.make().to(device)

    def call(x: Tensor) -> Tensor:
        with autocast(precision, device):
            return of.call(made, x)

    return rate(call, of.shape, device, size(of)[1], batch)


def estimate(run: Subject, step: Step) -> Row:
    """Return a stage with its estimates; one that is reused takes nothing."""
    if step.state == REUSED:
        return Row(step.name, step.stage.key, step.state, "", 0.0, 0.0)
    work = asked(run, step)
    if work is None:
        return Row(step.name, step.stage.key, step.state, "unknown", None, None)
    images, seconds = max(0, work.images - done(step, work)), 0.0
    if images:
        of = network(run, work)
        batch = 2 ** (min(work.batch, IMAGES).bit_length() - 1)  # few of them, as each is timed
        seconds = images * work.passes * size(of)[1] / rate_of(of, work.precision, run.stages.device, batch)
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


def memory(run: Subject, work: Asked) -> float | None:
    """Return the bytes that a stage takes of the device; None where it is not the denoiser that takes most."""
    if work.network != DENOISER or not work.images:
        return None
    of, train, loop = network(run), work.training, run.stages.loop
    if train:
        each = work.batch // train.batch_size  # images of a row
        micro = loop.micro_batch and each * loop.micro_batch
        found = training_of(of, work.batch, work.precision, train.ema, micro, loop.recompute)
        beside = scratch_of(of, "fp32", True).of(work.beside) if work.beside else 0
        return max(found.most, found.kept + beside)
    return FP32 * size(of)[0] + scratch_of(of, work.precision, work.gradients).of(work.batch)


def basis(run: Subject, steps: list[Step]) -> list[str]:
    """Return what the estimates rest on, in lines."""
    of, device = network(run), run.stages.device
    weights, forward = size(of)
    lines = [f"network: {weights / 1e6:.3g} M weights, {forward / 1e9:,.3g} GFLOP a forward pass of an image"]
    left = [work for step in steps if step.state != REUSED and (work := asked(run, step)) and work.images]
    for precision in sorted({work.precision for work in left if work.network == DENOISER}):
        found = rate_of(of, precision, device)
        lines.append(f"here: {found / 1e9:,.3g} GFLOP/s in {precision}, on {device_name(device)}")
    return lines
