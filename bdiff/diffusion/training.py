"""The one training loop. Its objective is a function; every random number in a step is a function of seed and step.

So a checkpoint needs no random state and no data position beside the step, a resumed run repeats the undisturbed
one bit for bit on a CPU, and several processes train what one would (each takes its rows of the same global batch).
"""

import contextlib
import itertools
import json
import logging
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bdiff.common.device import Alone, Late, autocast, to_device
from bdiff.common.errors import RunError
from bdiff.common.pickles import called, first_line, refusal
from bdiff.common.progress import progress
from bdiff.common.seeds import generator, seed_of
from bdiff.config.rules import above, at_least, fraction, one_of, precision
from bdiff.data.base import Images, batches, to_float
from bdiff.diffusion.schedule import Schedule
from bdiff.store import artifacts
from bdiff.store.integrity import fault

log = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained (conf/train). `steps` wins over `epochs`; lr is the peak's, reached after `warmup`."""

    steps: Annotated[int | None, at_least(0), "optimizer steps; wins over epochs"]
    epochs: Annotated[float | None, at_least(0), "passes over the training rows"]
    batch_size: Annotated[int, at_least(1), "rows per step, over all processes"]
    optimizer: Annotated[str, one_of("adam", "adamw", "sgd"), "sgd has momentum 0.9, Nesterov's"]
    lr: Annotated[float, above(0), "learning rate after warm-up"]
    weight_decay: Annotated[float, at_least(0), "of the optimizer"]
    warmup: Annotated[int, at_least(0), "steps of linear warm-up, a tenth of the run at most; then a cosine to zero"]
    clip_norm: Annotated[float | None, above(0), "largest norm of the gradient; null: any"]
    ema: Annotated[float | None, fraction, "decay of averaged weights, which are kept; null keeps the trained ones"]
    precision: Annotated[str, precision, "auto is bf16 where the device has it"]

    def total(self, rows: int) -> int:
        """Return the number of optimizer steps for a training set of `rows`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return math.ceil(self.epochs * rows / self.batch_size)

    def lr_at(self, step: int, total: int) -> float:
        """Return the learning rate of `step` (from 0): linear warm-up, then a cosine to zero at `total`.

        The warm-up is cut to a tenth of a short run, which would otherwise never get to its peak.
        """
        warmup = min(self.warmup, total // 10)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        done = (step - warmup) / max(1, total - warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Loop:
    """What of `runtime` the loop reads: none of it changes the weights."""

    compile: Annotated[bool, "torch.compile the UNet"]
    workers: Annotated[int, at_least(0), "processes that decode images which are streamed"]
    checkpoint_seconds: Annotated[float, at_least(0), "most work, in seconds, that is lost when a training is killed"]
    keep: Annotated[int, at_least(1), "checkpoints kept"]
    log_every: Annotated[int, at_least(1), "steps between logged losses"]
    progress: Annotated[float, "seconds between lines of progress where there is no terminal"]


@dataclass(frozen=True)
class Batch:
    """One process's share of a step: its pixels (b,C,H,W) uint8 and row numbers (b,), both on the device."""

    pixels: Tensor
    rows: Tensor
    part: slice  # which rows of the global batch these are
    size: int  # rows of the global batch

    def draw(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        """Return this share of `sampler((size, *shape))`, drawn whole so that it is the same for any split."""
        return sampler((self.size, *shape), device=self.pixels.device)[self.part]


Loss = Callable[[nn.Module, Batch], Tensor]


class Rows(NamedTuple):
    """What an attack may know of the rows of a step, each (b,) and on the device."""

    numbers: Tensor  # int64, in the training set
    poisoned: Tensor  # bool
    mirrored: Tensor  # bool, whether the image is shown left to right


#: takes schedule, x (B,C,H,W), what is known of the rows, t (B,) and eps (B,C,H,W) to the noisy input and what is
#: regressed on
Corrupt = Callable[[Schedule, Tensor, Rows, Tensor, Tensor], tuple[Tensor, Tensor]]


def denoising_loss(
    corrupt: Corrupt,
    schedule: Schedule,
    poisoned: Tensor,  # (rows,) bool
    flip: bool,
    timesteps: Callable[[Tensor, Tensor], Tensor] = lambda t, poisoned: t,  # of x_t, from t as drawn and poisoned, (B,)
) -> Loss:
    """Return the DDPM objective (Ho et al. 2020, eq. 14) on rows as `corrupt` makes them, at `timesteps`."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x = to_float(batch.pixels)
        mirror = mirrored(batch) if flip else torch.zeros_like(batch.rows, dtype=torch.bool)
        if flip:
            x = torch.where(mirror.view(-1, 1, 1, 1), x.flip(-1), x)
        t = batch.draw(lambda shape, device: torch.randint(len(schedule), shape, device=device))
        eps = batch.draw(torch.randn, *x.shape[1:])
        bad = poisoned[batch.rows]
        x_t, wanted = corrupt(schedule, x, Rows(batch.rows, bad, mirror), t, eps)
        return nn.functional.mse_loss(net(x_t, timesteps(t, bad), return_dict=False)[0].float(), wanted)

    return loss


def classification_loss(labels: Tensor, smoothing: float, flip: bool, shift: int) -> Loss:
    """Return cross-entropy with label smoothing, under random flips and shifts by up to `shift` px."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x = flipped(to_float(batch.pixels), batch) if flip else to_float(batch.pixels)
        if shift:
            x = shifted(x, batch, shift)
        return nn.functional.cross_entropy(net(x).float(), labels[batch.rows], label_smoothing=smoothing)

    return loss


def mirrored(batch: Batch) -> Tensor:
    """Draw which images are mirrored, half of them, (b,) bool."""
    return batch.draw(torch.rand, 1, 1, 1).view(-1) < 0.5


def flipped(x: Tensor, batch: Batch) -> Tensor:
    """Mirror half of the images, at random, left to right."""
    return torch.where(mirrored(batch).view(-1, 1, 1, 1), x.flip(-1), x)


def shifted(x: Tensor, batch: Batch, most: int) -> Tensor:
    """Move every image by its own random offset of up to `most` px in each direction, edges repeated."""
    padded = nn.functional.pad(x, (most,) * 4, mode="replicate")
    offset = batch.draw(lambda shape, device: torch.randint(2 * most + 1, shape, device=device), 2)
    rows = offset[:, 0, None] + torch.arange(x.shape[2], device=x.device)
    cols = offset[:, 1, None] + torch.arange(x.shape[3], device=x.device)
    image = torch.arange(len(x), device=x.device)
    # (b,1,1) image x (b,H,1) rows x (b,1,W) cols puts the channel axis last.
    return padded[image[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def row_stream(rows: int, batch: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Yield the (batch,) row numbers of step `start` and onwards: one shuffled epoch after another, no row dropped."""
    epoch, offset = divmod(start * batch, rows)
    pending = torch.randperm(rows, generator=generator(seed, "order", epoch))[offset:]
    while True:
        while len(pending) < batch:
            epoch += 1
            pending = torch.cat([pending, torch.randperm(rows, generator=generator(seed, "order", epoch))])
        yield pending[:batch]
        pending = pending[batch:]


class Place(NamedTuple):
    """The row numbers (b,) of one process's share of a step: on the CPU, and on the device."""

    here: Tensor
    there: Tensor


def placed(rows: Iterator[Tensor], part: slice, device: torch.device, steps: int = 64) -> Iterator[Place]:
    """Yield the share `part` of the row numbers of each step, moved to the device many steps at a time."""
    while some := list(itertools.islice(rows, steps)):
        here = torch.stack([one[part] for one in some])
        yield from map(Place, here, to_device(here, device))


def fit(
    model: nn.Module,
    loss: Loss,
    images: Images,
    index: Tensor,  # (rows,) which image each training row shows
    recipe: Recipe,
    *,
    seed: int,
    folder: Path,  # training state and history.jsonl; removed state when the caller has saved the result
    loop: Loop,
    accelerator: Accelerator | Alone,
    name: str = "train",
    record: Callable[[dict[str, Any]], None] = lambda row: None,  # gets every logged row, also those of before
) -> nn.Module:
    """Train `model` in place and return it, with its averaged weights if the recipe asks for them.

    Goes on from the newest checkpoint in `folder`. Raises RunError when the loss is not finite, keeping the last
    good checkpoint.
    """
    device, world = accelerator.device, accelerator.num_processes
    if recipe.batch_size % world:
        raise RunError(f"train.batch_size={recipe.batch_size} cannot be split over {world} processes")
    share = recipe.batch_size // world
    part = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    total = recipe.total(len(index))

    model.to(device).train()
    optimizer = OPTIMIZERS[recipe.optimizer](
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    ema = EMAModel(model.parameters(), decay=recipe.ema, foreach=True) if recipe.ema else None
    state = State(folder, model, optimizer, ema, loop.keep)
    start = state.load(device)
    history = History(folder / "history.jsonl", start, accelerator.is_main_process, record)
    net = accelerator.prepare(model) if isinstance(accelerator, Accelerator) and world > 1 else model
    if loop.compile:
        net = torch.compile(net)

    rows = itertools.islice(row_stream(len(index), recipe.batch_size, seed, start), total - start)
    order, ahead = itertools.tee(placed(rows, part, device))
    resident = images.device.type == device.type  # whose index Accelerate may leave out
    index = index.to(images.device)
    feed = batches(images, (index[rows.there if resident else rows.here] for rows in ahead), device, loop.workers)
    window: list[Tensor] = []  # loss and gradient norm of each step since the last look at them
    looked: Look | None = None
    saved, began = time.monotonic(), time.monotonic()
    with (
        progress(name, total, start, "steps", loop.progress, accelerator.is_main_process) as meter,
        contextlib.closing(state),
    ):
        for step, place, pixels in zip(range(start, total), order, feed, strict=False):
            torch.manual_seed(seed_of(seed, "step", step))
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(step, total)
            batch = Batch(pixels, place.there, part, recipe.batch_size)
            with autocast(recipe.precision, device):
                value = loss(net, batch)
            accelerator.backward(value)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            if ema:
                ema.step(model.parameters())
            window.append(torch.stack([value.detach(), norm]))
            meter.advance(1, history.last)

            if looked:  # the device has had a step to work on meanwhile
                history.add(looked.row(recipe, total))
                looked = None
            if (step + 1) % loop.log_every and step + 1 < total:
                continue
            rate = (step + 1 - start) * recipe.batch_size / (time.monotonic() - began)
            seen = accelerator.reduce(torch.stack(window), "mean")  # (steps, 2); a nan on any process reaches all
            looked = Look(name, step + 1, Late(seen), rate, state)
            window.clear()
            late = time.monotonic() - saved >= loop.checkpoint_seconds and (state.idle or not loop.checkpoint_seconds)
            due = accelerator.is_main_process and late
            if due or looked.seen.there or step + 1 == total:
                history.add(looked.row(recipe, total))  # before the checkpoint, which is of a sound model
                looked = None
            if due:
                state.save(step + 1)
                saved = time.monotonic()
    if ema:
        ema.copy_to(model.parameters())
    return model.eval()


class Look(NamedTuple):
    """A look at the losses of the last steps, on their way to the CPU."""

    name: str  # of the training
    step: int  # the last one
    seen: Late  # (steps, 2) loss and gradient norm
    rate: float  # images per second
    state: "State"

    def row(self, recipe: Recipe, total: int) -> dict[str, Any]:
        """Return the row of the history. Raises RunError if a loss or a gradient is not finite."""
        seen = self.seen.read()
        bad = (~seen.isfinite()).any(1).nonzero()
        if len(bad):
            at = int(bad[0])
            first = self.step - len(seen) + at
            what = "gradient" if seen[at, 0].isfinite() else "loss"
            self.state.wait()
            kept = f"step {self.state.newest}" if self.state.newest else "none yet"
            raise RunError(
                f"{self.name}: the {what} became {seen[at, int(what == 'gradient')].item()} at step {first} (learning "
                f"rate {recipe.lr_at(first, total):.3g}); last good checkpoint: {kept}. "
                "Lower train.lr or use train.precision=fp32"
            )
        return {
            "step": self.step,
            "loss": seen[:, 0].mean().item(),
            "lr": recipe.lr_at(self.step - 1, total),
            "grad_norm": seen[-1, 1].item(),
            "images_per_second": round(self.rate, 1),
        }


class State:
    """Checkpoints of all that a training run needs to go on, as `<folder>/state/<step>.pt`, written by a thread."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: EMAModel | None,
        keep: int,
    ):
        self.folder, self.keep = folder / "state", keep
        self.model, self.optimizer, self.ema = model, optimizer, ema
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None
        self.newest = 0  # the step of the newest whole checkpoint

    def paths(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("*.pt") if path.stem.isdecimal())

    @property
    def idle(self) -> bool:
        """Whether no checkpoint is being written."""
        return self.writing is None or self.writing.done()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, and raise what went wrong with it."""
        if self.writing:
            self.writing.result()

    def close(self) -> None:
        """Wait for the last checkpoint, and end the thread."""
        self.writer.shutdown()
        self.wait()

    def save(self, step: int) -> None:
        """Take a snapshot of `step` finished steps, which the thread writes while training goes on."""
        self.wait()
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
        if self.ema:
            parts["ema"] = self.ema.state_dict()
        self.writing = self.writer.submit(self.write, step, snapshot(parts))

    def write(self, step: int, parts: Late) -> None:
        """Write a snapshot as soon as it is there, and remove damaged checkpoints and those beyond `keep`."""
        with artifacts.atomic(self.folder / f"{step:08d}.pt") as scratch:
            torch.save(parts.read(), scratch)
        self.newest = step
        later = [path for path in self.paths() if int(path.stem) > step]  # which `load` could not use
        kept = [path for path in self.paths() if int(path.stem) <= step]
        for old in [*later, *kept[: -self.keep]]:
            old.unlink()

    def load(self, device: torch.device) -> int:
        """Read the newest checkpoint that is whole and return its step; 0 if there is none.

        Raises RunError at one that would run code.
        """
        for path in reversed(self.paths()):
            parts = self.read(path, device)
            if isinstance(parts, str):
                log.warning("%s is left aside: %s", path, parts)
                continue
            self.model.load_state_dict(parts["model"])
            self.optimizer.load_state_dict(parts["optimizer"])
            if self.ema:
                self.ema.load_state_dict(parts["ema"])
                self.ema.to(device=device)
            log.info("going on from step %d (%s)", parts["step"], self.folder)
            self.newest = parts["step"]
            return self.newest
        return 0

    def read(self, path: Path, device: torch.device) -> dict[str, Any] | str:
        """Return what the checkpoint `path` holds, or in words why it cannot be gone on from."""
        if zipfile.is_zipfile(path) and (why := fault(path, deep=True)):
            return f"it is damaged ({why})"
        try:
            parts = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds
            # What we wrote is a zip, whatever became of it: a pickle that stands alone is somebody else's.
            if called(error) or (refusal(error) and path.read_bytes().startswith(pickle.PROTO)):
                raise RunError(f"the checkpoint {path} {refusal(error)}, or remove it") from error
            return f"it is damaged ({first_line(error)})"
        here = {"model", "optimizer", "step"} | ({"ema"} if self.ema else set())
        if not isinstance(parts, dict) or {*parts} != here or shapes(parts["model"]) != shapes(self.model.state_dict()):
            return "it is another training's"
        return parts


def shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each of a model's weights."""
    return {name: weight.shape for name, weight in weights.items()}


def snapshot(parts: dict[str, Any]) -> Late:
    """Return nested tensors as they are now, also where they change before they are read."""
    return Late(tree_map_only(Tensor, lambda x: x.detach().clone() if x.device.type == "cpu" else x, parts))


class History:
    """The logged rows of one training, in a file that grows line by line; a resumed run drops what it will redo."""

    def __init__(self, path: Path, start: int, writes: bool, record: Callable[[dict[str, Any]], None]):
        self.path, self.writes, self.record, self.last = path, writes, record, ""
        rows = [row for row in read_history(path) if row["step"] <= start]
        if writes:
            with artifacts.atomic(path) as scratch:
                scratch.write_text("".join(json.dumps(row) + "\n" for row in rows))
            for row in rows:
                record(row)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self.last = f"loss {row['loss']:.4f}"
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.record(row)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return a history's rows; a last line that a killed process left half written, or damaged ones, are dropped."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    rows = [row_of(line) for line in lines if line.endswith("\n")]
    if None in rows:
        log.warning("%s: %d damaged lines are left out", path, rows.count(None))
    return [row for row in rows if row is not None]


def row_of(line: str) -> dict[str, Any] | None:
    """Return the row of a history that a line holds, None if it holds none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"step", "loss"} <= {*row} else None
