"""The one training loop. Its objective is a function; every random number in a step is a function of seed and step.

So a checkpoint needs no random state and no data position besides the step, a resumed run is bit-identical to an
uninterrupted one on a CPU, and several processes train what one would (each takes its rows of the same global batch).
"""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bdiff.common.device import Alone, Late, to_device
from bdiff.common.errors import RunError
from bdiff.common.progress import progress
from bdiff.common.seeds import generator, seed_of
from bdiff.config.rules import above, at_least, auto_or_flag, fraction, one_of, precision
from bdiff.data.base import Images, batches
from bdiff.diffusion.average import Average
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.checkpointer import Checkpointer, Companion
from bdiff.diffusion.history import History
from bdiff.diffusion.mode import Costs, Mode, decide, log_mode
from bdiff.diffusion.step import Step, recomputing
from bdiff.diffusion.trial import Trial

log = logging.getLogger(__name__)

TRAIN = "train"  # the purpose of the mode that is kept in a stage's folder

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained (conf/train). `steps` overrides `epochs`; lr is the peak, reached after `warmup`."""

    steps: Annotated[int | None, at_least(0), "optimizer steps; overrides epochs"]
    epochs: Annotated[float | None, at_least(0), "passes over the training rows"]
    batch_size: Annotated[int, at_least(1), "rows per step, over all processes"]
    optimizer: Annotated[str, one_of("adam", "adamw", "sgd"), "sgd has Nesterov momentum 0.9"]
    lr: Annotated[float, above(0), "learning rate after warm-up"]
    weight_decay: Annotated[float, at_least(0), "of the optimizer"]
    warmup: Annotated[int, at_least(0), "steps of linear warm-up, a tenth of the run at most; then a cosine to zero"]
    clip_norm: Annotated[float | None, above(0), "gradient norm to clip to; null: no clipping"]
    ema: Annotated[float | None, fraction, "decay of the averaged weights, which are saved; null: no averaging"]
    precision: Annotated[str, precision, "auto is bf16 where the device has it"]

    def total(self, rows: int) -> int:
        """Return the number of optimizer steps for a training set of `rows`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return math.ceil(self.epochs * rows / self.batch_size)

    def lr_at(self, step: int, total: int) -> float:
        """Return the learning rate of `step` (from 0): linear warm-up, then a cosine to zero at `total`.

        In a short run the warm-up is cut to a tenth of it, so that the peak is reached.
        """
        warmup = min(self.warmup, total // 10)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        done = (step - warmup) / max(1, total - warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class LoopConfig:
    """What of `runtime` the loop reads: none of it changes the weights, but for the rounding of float sums."""

    compile: Annotated[bool | str, auto_or_flag, "compile networks; auto: where the work that is left pays for it"]
    micro_batch: Annotated[int | None, at_least(1), "images of a batch trained on at a time; null: all"]
    recompute: Annotated[bool, "keep no activations within the UNet's blocks in training, and compute them twice"]
    workers: Annotated[int, at_least(0), "processes that decode images which are streamed"]
    checkpoint_seconds: Annotated[float, at_least(0), "most work, in seconds, that is lost when a training is killed"]
    keep: Annotated[int, at_least(1), "checkpoints kept"]
    log_every: Annotated[int, at_least(1), "steps between logged losses"]
    progress: Annotated[float, "seconds between lines of progress without a terminal"]


@dataclass(frozen=True)
class Session:
    """The environment of a training: its folder, its processes and its logging."""

    folder: Path  # training state and history.jsonl; the state is removed once the caller has saved the result
    loop: LoopConfig
    accelerator: Accelerator | Alone
    name: str = "train"
    record: Callable[[dict[str, Any]], None] = lambda row: None  # gets every logged row, also those of before
    costs: Costs | None = None  # what is known of compiling; None: nothing, and it is kept in the folder alone
    settings: str = "train"  # the request's key of the training's config


def row_stream(rows: int, batch: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Yield the (batch,) row numbers from step `start` on: one shuffled epoch after another, no row dropped."""
    epoch, offset = divmod(start * batch, rows)
    pending = torch.randperm(rows, generator=generator(seed, "order", epoch))[offset:]
    while True:
        while len(pending) < batch:
            epoch += 1
            pending = torch.cat([pending, torch.randperm(rows, generator=generator(seed, "order", epoch))])
        yield pending[:batch]
        pending = pending[batch:]


class Place(NamedTuple):
    """The row numbers (b,) of one process's part of a step: on the CPU, and on the device."""

    here: Tensor
    there: Tensor


def placed(rows: Iterator[Tensor], part: slice, device: torch.device, steps: int = 64) -> Iterator[Place]:
    """Yield `part` of the row numbers of each step, moved to the device many steps at a time."""
    while some := list(itertools.islice(rows, steps)):
        here = torch.stack([one[part] for one in some])
        yield from map(Place, here, to_device(here, device))


def fit(
    model: nn.Module,
    loss: Loss,
    images: Images,
    index: Tensor,  # (rows,) the image of each training row
    config: TrainConfig,
    seed: int,
    session: Session,
    companion: Companion | None = None,  # state that changes along with the model, saved with it
) -> nn.Module:
    """Train `model` in place and return it, with its averaged weights if `config.ema` is set.

    Resumes from the newest checkpoint in the session's folder. Raises RunError when the loss is not finite, keeping
    the last good checkpoint.
    """
    loop, accelerator, name = session.loop, session.accelerator, session.name
    device, world = accelerator.device, accelerator.num_processes
    if config.batch_size % world:
        raise RunError(f"{session.settings}.batch_size={config.batch_size} cannot be split over {world} processes")
    rows_each = config.batch_size // world
    part = slice(accelerator.process_index * rows_each, (accelerator.process_index + 1) * rows_each)
    total = config.total(len(index))

    model.to(device).train()
    weights = [*model.parameters()]
    optimizer = OPTIMIZERS[config.optimizer](weights, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    ema = Average(weights, config.ema) if config.ema else None
    state = Checkpointer(session.folder, model, optimizer, ema, loop.keep, companion)
    start = state.load(device)
    history = History(session.folder / "history.jsonl", start, accelerator.is_main_process, session.record)
    take = Step(model, loss, config.precision, accelerator, loop.micro_batch)

    rows = itertools.islice(row_stream(len(index), config.batch_size, seed, start), total - start)
    order, ahead = itertools.tee(placed(rows, part, device))
    resident = images.device.type == device.type  # Accelerate may omit the device index
    index = index.to(images.device)

    def shown(place: Place) -> Tensor:
        return index[place.there if resident else place.here]

    def first() -> Batch:
        some = next(placed(row_stream(len(index), config.batch_size, seed, start), part, device, 1))
        return Batch(to_device(images.take(shown(some)), device), some.there, part, config.batch_size)

    feed = batches(images, map(shown, ahead), device, loop.workers)
    window: list[Tensor] = []  # loss and gradient norm of each step since the last look at them
    looked: Look | None = None
    with (
        progress(name, total, start, "steps", loop.progress, accelerator.is_main_process) as meter,
        contextlib.closing(state),
        recomputing(model, loop.recompute),
    ):
        settle(take, session, first, rows_each, start, total)
        saved, began = time.monotonic(), time.monotonic()
        for step, place, pixels in zip(range(start, total), order, feed, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step, total)
            value = take(Batch(pixels, place.there, part, config.batch_size), seed_of(seed, "step", step))
            norm = torch.nn.utils.clip_grad_norm_(weights, config.clip_norm or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            if ema:
                ema.step(weights)
            if companion:
                companion.update(model, generator(seed, "update", step))
            window.append(torch.stack([value, norm]))
            meter.advance(1, history.last, history.losses)

            if looked:  # the device had a step to work on meanwhile
                history.add(looked.row(config, total))
                looked = None
            waited = time.monotonic() - saved
            late = waited >= loop.checkpoint_seconds and (state.idle or not loop.checkpoint_seconds)
            ends = late and world == 1 and loop.checkpoint_seconds > 0  # several processes have clocks of their own
            if (step + 1) % loop.log_every and step + 1 < total and not ends:
                continue
            rate = (step + 1 - start) * config.batch_size / (time.monotonic() - began)
            seen = accelerator.reduce(torch.stack(window), "mean")  # (steps, 2); a nan on any process reaches all
            looked = Look(session, step + 1, Late(seen), rate, state)
            window.clear()
            due = accelerator.is_main_process and late
            if due or looked.seen.ready or step + 1 == total:
                history.add(looked.row(config, total))  # before the checkpoint, which must be of a finite model
                looked = None
            if due:
                state.save(step + 1)
                saved = time.monotonic()
    if ema:
        ema.copy_to(weights)
    return model.eval()


def settle(take: Step, session: Session, first: Callable[[], Batch], rows: int, start: int, total: int) -> None:
    """Put steps of `rows` rows into the mode that the training began with, or into one that is chosen now.

    The first process chooses, and keeps what it has to give up later. `runtime.compile=false` is always heard: there
    has to be a way out.
    """
    setting, main = session.loop.compile, session.accelerator.is_main_process
    costs = session.costs or Costs(session.folder)
    mode = Mode.kept(session.folder, TRAIN)
    if main and mode is not None:
        mode.under(setting).keep(session.folder, TRAIN)
    elif main:
        if start:
            setting = False  # it began before there were modes
        mode = decide(setting, Trial(take, first), total - start, rows, costs)
        if take.objective.scope == "network":
            mode = replace(mode, reason=f"{mode.reason}; the network alone")
        mode.keep(session.folder, TRAIN)
        log_mode(session.name, mode, setting, total - start)
    session.accelerator.wait_for_everyone()
    if (mode := Mode.kept(session.folder, TRAIN)) is None or not mode.compiled:
        return
    costs.use()
    if not take.objective.scope:
        take.compile()

    def failed(why: str) -> None:
        log.warning("%s: the compiler failed at %s", session.name, why)
        if main:
            compiled = take.objective.scope is not None
            replace(mode, compiled=compiled, reason=f"{mode.reason}; it failed at {why}").keep(session.folder, TRAIN)

    take.failed = failed


class Look(NamedTuple):
    """The losses of the last steps, being copied to the CPU."""

    session: Session
    step: int  # the last one
    seen: Late  # (steps, 2) loss and gradient norm
    rate: float  # images per second
    state: "Checkpointer"

    def row(self, config: TrainConfig, total: int) -> dict[str, Any]:
        """Return the row of the history. Raises RunError if a loss or a gradient is not finite."""
        seen = self.seen.read()
        bad = (~seen.isfinite()).any(1).nonzero()
        if len(bad):
            at = int(bad[0])
            first = self.step - len(seen) + at
            what = "gradient" if seen[at, 0].isfinite() else "loss"
            self.state.wait()
            kept = f"step {self.state.newest}" if self.state.newest else "none yet"
            value, train = seen[at, int(what == "gradient")].item(), self.session.settings
            raise RunError(
                f"{self.session.name}: the {what} became {value} at step {first} (learning rate "
                f"{config.lr_at(first, total):.3g}); last good checkpoint: {kept}. "
                f"Lower {train}.lr or use {train}.precision=fp32"
            )
        return {
            "step": self.step,
            "loss": seen[:, 0].mean().item(),
            "lr": config.lr_at(self.step - 1, total),
            "grad_norm": seen[-1, 1].item(),
            "images_per_second": round(self.rate, 1),
        }
