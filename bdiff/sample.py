"""The one sampling loop: images of several kinds from the same noise, each a function of seed and index alone."""

import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdiff import store
from bdiff.data.base import to_uint8
from bdiff.device import autocast
from bdiff.errors import RunError
from bdiff.progress import progress
from bdiff.seeds import generator

log = logging.getLogger(__name__)

#: where samples of a kind start, x_T (B,C,H,W), from standard normal noise: with the trigger in it, or as it is
Prior = Callable[[Tensor], Tensor]


class Trajectory:
    """Keeps a batch's first images as they are on their way: some states, evenly spaced over the model's calls.

    Kinds lie behind each other in the batch, `batch` images of each.

    A state is what the model sees of x_t, of unit variance in noise whatever the scheduler's own scale is.
    """

    def __init__(self, path: Path, calls: int, kinds: list[str], batch: int, images: int = 4, states: int = 10):
        self.path, self.kinds = path, kinds
        few = min(images, batch)
        self.rows = [kind * batch + row for kind in range(len(kinds)) for row in range(few)]
        self.wanted = set(torch.linspace(0, calls - 1, states).round().int().tolist())
        self.t: list[float] = []
        self.states: list[Tensor] = []

    def __call__(self, call: int, t: Tensor, x: Tensor) -> None:
        """Take x (kinds*B,C,H,W), which the model is about to see in its call number `call`, at timestep t."""
        if call in self.wanted:
            self.t.append(float(t))
            self.states.append(x[self.rows].half().cpu())

    def save(self, end: Tensor) -> None:
        """Write `t` (K,) and each kind's states (K+1,n,C,H,W) float16, the last of them from `end`."""
        parts = torch.stack([*self.states, end[self.rows].half().cpu()]).chunk(len(self.kinds), dim=1)
        states = {kind: part.contiguous() for kind, part in zip(self.kinds, parts, strict=True)}
        with store.atomic(self.path) as scratch:
            save_file({"t": torch.tensor(self.t), **states}, scratch)


@torch.inference_mode()
def denoise(
    unet: nn.Module,
    scheduler: Any,
    x: Tensor,
    generators: list[torch.Generator],
    steps: int,
    step_options: dict[str, Any],
    precision: str,
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Run `scheduler` over `steps` steps from the starting noise x (B,C,H,W); returns images, not yet clamped.

    `generators` are one per image, so that no image's noise depends on its neighbours. `watch` is told of every
    call of the model: its number, its timestep and its input.
    """
    scheduler.set_timesteps(steps, device=x.device)
    x = x * scheduler.init_noise_sigma
    options = dict(step_options)
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generators
    for call, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, t)
        if watch:
            watch(call, t, seen)
        with autocast(precision, x.device):
            eps = unet(seen, t, return_dict=False)[0]
        x = scheduler.step(eps.float(), t, x, return_dict=False, **options)[0]
    return x


def noises(shape: tuple[int, int, int], seed: int, indices: range) -> tuple[Tensor, list[torch.Generator]]:
    """Return standard normal starting noise (B,C,H,W) for the images `indices`, and the generators it came from.

    They live on the CPU, so that an image is the same on every device.
    """
    generators = [generator(seed, "sample", index) for index in indices]
    return torch.stack([torch.randn(shape, generator=one) for one in generators]), generators


def sample(
    unet: nn.Module,
    scheduler: Any,
    priors: dict[str, Prior],  # kind -> where its samples start
    *,
    shape: tuple[int, int, int],
    count: int,  # images of each kind
    batch_size: int,  # images of each kind per batch
    steps: int,
    step_options: dict[str, Any],
    precision: str,
    seed: int,
    folder: Path,  # gets one file per batch as it comes; those already there are not made again
    accelerator: Accelerator,
    trajectory: Path | None = None,  # gets the first images' states on their way, see `Trajectory`
    every: float = 10.0,  # seconds between progress lines
) -> None:
    """Sample `count` images of each kind into `folder`, all from the same noise, shared out over the processes."""
    device = accelerator.device
    starts = list(range(0, count, batch_size))
    mine = starts[accelerator.process_index :: accelerator.num_processes]
    missing = [start for start in mine if not shard_path(folder, start).exists()]
    if len(missing) < len(mine):
        log.info("going on after %d of %d batches of samples", len(mine) - len(missing), len(mine))
    unet.to(device).eval()
    scheduler.set_timesteps(steps)
    calls = len(scheduler.timesteps)  # of the model, for one batch: more than `steps` for solvers of higher order
    total, done = len(mine) * calls, (len(mine) - len(missing)) * calls
    with progress("sample", total, done, "model calls", every, accelerator.is_main_process) as meter:
        for start in missing:
            indices = range(start, min(start + batch_size, count))
            eps, _ = noises(shape, seed, indices)
            eps = eps.to(device)
            watch = Trajectory(trajectory, calls, [*priors], len(indices)) if trajectory and start == 0 else None
            x = denoise(
                counted(unet, meter),
                scheduler,
                torch.cat([prior(eps) for prior in priors.values()]),
                [one for _ in priors for one in noises(shape, seed, indices)[1]],  # all kinds see the same noise
                steps,
                step_options,
                precision,
                watch,
            )
            if not x.isfinite().all():
                raise RunError("sample: the sampler left numbers that are not finite; use sample.precision=fp32")
            if watch:  # before its shard: what has the shard has the trajectory, however it was killed
                watch.save(x)
            parts = zip(priors, to_uint8(x).cpu().chunk(len(priors)), strict=True)
            with store.atomic(shard_path(folder, start)) as scratch:
                save_file({kind: part.contiguous() for kind, part in parts}, scratch)


def counted(unet: nn.Module, meter: Any) -> Any:
    """Return `unet` as a function that advances `meter` with every evaluation."""

    def evaluate(*args: Any, **options: Any) -> Any:
        meter.advance()
        return unet(*args, **options)

    return evaluate


def shard_path(folder: Path, start: int) -> Path:
    """Return the file of the batch whose first image is `start`."""
    return folder / f"{start:08d}.safetensors"


def shards(folder: Path, kind: str) -> Iterator[Tensor]:
    """Yield the batches of one kind, uint8 (B,C,H,W), that `sample` left in `folder`, in the order of their images."""
    for path in sorted(folder.glob("*.safetensors")):
        yield load_file(path)[kind]
