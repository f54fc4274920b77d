"""The one sampling loop: images of several kinds from the same noise, each a function of seed and index alone."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bdiff.common.device import to_device
from bdiff.common.errors import RunError
from bdiff.common.progress import progress
from bdiff.common.seeds import generator
from bdiff.data.base import to_uint8
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.engine import steady
from bdiff.diffusion.noise import Noise
from bdiff.diffusion.view import View, beside
from bdiff.store import artifacts

log = logging.getLogger(__name__)

TRAJECTORY = "trajectory.safetensors"
#: where samples of a kind start, x_T (B,C,H,W), from standard normal noise: with the trigger in it, or as it is
Prior = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Drawn:
    """What is drawn of one kind."""

    prior: Prior
    count: int  # images, the first ones of the noise that all kinds share
    view: Callable[[Denoiser], View] = View  # the variables in which it is drawn


class Trajectory:
    """Keeps a batch's first images as they are on their way: some states, evenly spaced over the model's calls.

    Kinds lie behind each other in the batch, `sizes` says how many images of each. A state is what the model sees of
    x_t, of unit variance in noise whatever the scheduler's own scale is.
    """

    def __init__(self, path: Path, calls: int, sizes: dict[str, int], images: int = 4, states: int = 10):
        self.path, self.sizes, self.images = path, sizes, min(images, *sizes.values())
        self.wanted = set(torch.linspace(0, calls - 1, states).round().int().tolist())
        self.t: list[float] = []
        self.states: list[Tensor] = []

    def add(self, t: Tensor, x: Tensor) -> None:
        """Take x, which the model is about to see at timestep t, which is on the CPU; in a call that is `wanted`."""
        self.t.append(float(t))
        self.states.append(self.few(x))

    def few(self, x: Tensor) -> Tensor:
        """Return the first images of each kind, (kinds,n,C,H,W) float16."""
        return torch.stack([part[: self.images] for part in x.split([*self.sizes.values()])]).half()

    def save(self, end: Tensor) -> None:
        """Write `t` (K,) and each kind's states (K+1,n,C,H,W) float16, the last of them from `end`."""
        states = torch.stack([*self.states, self.few(end)], dim=1).cpu()
        with artifacts.atomic(self.path) as scratch:
            save_file({"t": torch.tensor(self.t), **dict(zip(self.sizes, states.unbind(), strict=True))}, scratch)


@contextmanager
def handed(scheduler: Any, noise: Callable[[], Tensor]) -> Iterator[None]:
    """Let the `step` of a diffusers scheduler take the noise that it needs from `noise()`, draw after draw.

    DDPM and others draw it by diffusers' `randn_tensor`, on the CPU while the device waits, and take none from outside:
    so that function is another one within their module meanwhile.
    """

    def given(shape: Sequence[int], *args: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        drawn = noise()
        assert drawn.shape == tuple(shape), (drawn.shape, shape)
        return drawn if dtype is None else drawn.to(dtype)

    module = sys.modules[inspect.unwrap(type(scheduler).step).__module__]
    if not hasattr(module, "randn_tensor"):  # of a sampler that knows no noise
        yield
        return
    with patch.object(module, "randn_tensor", given):
        yield


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler with its number of steps and the options of its `step`."""

    scheduler: Any
    steps: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """How often the model is called for one batch: more than `steps` for solvers of higher order."""
        self.scheduler.set_timesteps(self.steps)
        return len(self.scheduler.timesteps)


@torch.inference_mode()
def denoise(
    view: View,
    sampler: Sampler,
    x: Tensor,
    noise: Callable[[], Tensor],
    ahead: Callable[[], None] = lambda: None,
    watch: Callable[[int, Tensor, Tensor], None] = lambda call, t, x: None,
) -> Tensor:
    """Run the sampler from the starting noise x (B,C,H,W); returns images, not yet clamped.

    `noise` gives the sampler's own, (B,C,H,W), whenever it needs some; `ahead` is called when there is time to make the
    next. `watch` is told of every call of the model: its number, its timestep and its input. Timesteps are the
    scheduler's on the CPU, where it looks its tables up, and the model's on the device.
    """
    scheduler = sampler.scheduler
    scheduler.set_timesteps(sampler.steps)
    z = view.enter(x) * scheduler.init_noise_sigma
    timesteps = to_device(scheduler.timesteps, z.device)
    with handed(scheduler, noise):
        for call, t in enumerate(scheduler.timesteps):
            seen = scheduler.scale_model_input(z, t)
            watch(call, t, seen)
            ahead()
            eps = view.eps(seen, timesteps[call])
            z = scheduler.step(eps, t, z, return_dict=False, **sampler.options)[0]
    return view.leave(z)


def noise_of(shape: tuple[int, ...], seed: int, indices: range, device: torch.device) -> Noise:
    """Return the noise of the images `indices`: first what they start from, then the sampler's own."""
    return Noise([generator(seed, "sample", index) for index in indices], shape, device)


def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    kinds: dict[str, Drawn],
    batch_size: int,  # images of each kind per batch
    seed: int,
    folder: Path,  # gets one file per batch as it comes, and the trajectory; those already there are not made again
    accelerator: Accelerator,
    every: float = 10.0,  # seconds between progress lines
) -> None:
    """Sample images of each kind into `folder`, all from the same noise, shared out over the processes."""
    device, trajectory = accelerator.device, folder.parent / TRAJECTORY
    count = max(kind.count for kind in kinds.values())
    starts = list(range(0, count, batch_size))
    mine = starts[accelerator.process_index :: accelerator.num_processes]
    # The trajectory is the first batch's, and made again with it.
    needed = {start: [shard_path(folder, start), *([trajectory] if start == 0 else [])] for start in mine}
    missing = [start for start, paths in needed.items() if not all(map(artifacts.whole, paths))]
    if len(missing) < len(mine):
        log.info("going on after %d of %d batches of samples", len(mine) - len(missing), len(mine))
    calls, views = sampler.calls, {name: kind.view(denoiser) for name, kind in kinds.items()}
    total, done = len(mine) * calls, (len(mine) - len(missing)) * calls
    with progress("sample", total, done, "model calls", every, accelerator.is_main_process) as meter:

        def batch(start: int) -> None:
            noise = noise_of(denoiser.shape, seed, range(start, min(start + batch_size, count)), device)
            there = {name: min(kind.count - start, len(noise)) for name, kind in kinds.items() if kind.count > start}
            eps, view = next(noise), beside([views[name] for name in there], [*there.values()])
            states = Trajectory(trajectory, calls, there) if start == 0 else None

            def watch(call: int, t: Tensor, z: Tensor) -> None:
                meter.advance()
                if states and call in states.wanted:
                    states.add(t, view.show(z, t))

            x = denoise(
                view,
                sampler,
                torch.cat([kinds[name].prior(eps[:size]) for name, size in there.items()]),
                partial(shared, noise, [*there.values()]),
                noise.ahead,
                watch,
            )
            if not x.isfinite().all():
                raise RunError("sample: the sampler left numbers that are not finite; use sample.precision=fp32")
            if states:  # before its shard: what has the shard has the trajectory, however it was killed
                states.save(x)
            parts = zip(there, to_uint8(x).cpu().split([*there.values()]), strict=True)
            with artifacts.atomic(shard_path(folder, start)) as scratch:
                save_file({kind: part.contiguous() for kind, part in parts}, scratch)

        for start in missing:
            steady(partial(batch, start))


def shared(noise: Noise, sizes: list[int]) -> Tensor:
    """Return the next draw for kinds that lie behind each other, `sizes` images of each: all see the same noise."""
    drawn = next(noise)
    return torch.cat([drawn[:size] for size in sizes])


def shard_path(folder: Path, start: int) -> Path:
    """Return the file of the batch whose first image is `start`."""
    return folder / f"{start:08d}.safetensors"


def shards(folder: Path, kind: str) -> Iterator[Tensor]:
    """Yield the batches of one kind, uint8 (B,C,H,W), that `sample` left in `folder`, in the order of their images."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            if kind in shard.keys():  # noqa: SIM118 (it is no dict)
                yield shard.get_tensor(kind)
