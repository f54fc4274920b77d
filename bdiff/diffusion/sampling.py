"""The one sampling loop: images of several kinds from the same noise, each a function only of seed and index."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bdiff.common.device import to_device
from bdiff.common.errors import RunError
from bdiff.common.peers import ALONE, Peers
from bdiff.common.progress import progress
from bdiff.common.seeds import generator
from bdiff.data.base import to_uint8
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.engine import steady
from bdiff.diffusion.noise import Noise
from bdiff.diffusion.view import View
from bdiff.store import artifacts

log = logging.getLogger(__name__)

TRAJECTORY = "trajectory.safetensors"
#: maps standard normal noise to the x_T (B,C,H,W) that samples of a kind start from, e.g. adds the trigger
Prior = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Drawn:
    """What to draw of one kind."""

    prior: Prior
    count: int  # number of images, from the start of the noise sequence that all kinds share
    view: Callable[[Denoiser], View] = View  # the variables in which it is sampled


class Trajectory:
    """Records intermediate states of a batch's first images, evenly spaced over the model's calls.

    The batch has `sizes` images of each kind. A state is x_t as the model sees it, with noise of unit variance whatever
    the scheduler's own scale is.
    """

    def __init__(self, path: Path, calls: int, sizes: dict[str, int], images: int = 4, states: int = 10):
        self.path, self.images = path, min(images, *sizes.values())
        self.calls = set(torch.linspace(0, calls - 1, states).round().int().tolist())
        self.t: dict[str, list[float]] = {kind: [] for kind in sizes}
        self.states: dict[str, list[Tensor]] = {kind: [] for kind in sizes}

    def add(self, x: Mapping[str, Tensor], t: Tensor | None = None) -> None:
        """Record x by kind: the model's next input at timestep t, on the CPU, for the calls in `calls`; then x_0."""
        for kind, state in x.items():
            self.states[kind].append(state[: self.images].half())
            self.t[kind] += [] if t is None else [float(t)]

    def save(self) -> None:
        """Write `t` (K,) and each kind's states (K+1,n,C,H,W) float16."""
        states = torch.stack([torch.stack(one) for one in self.states.values()]).cpu()
        t = next(iter(self.t.values()))  # the same for all kinds
        with artifacts.atomic(self.path) as scratch:
            save_file({"t": torch.tensor(t), **dict(zip(self.states, states.unbind(), strict=True))}, scratch)


@contextmanager
def handed(scheduler: Any, noise: Callable[[], Tensor]) -> Iterator[None]:
    """Make the `step` of a diffusers scheduler take its noise from `noise()`, draw after draw.

    DDPM and others draw it with diffusers' `randn_tensor`, on the CPU while the device waits, and accept none from the
    caller: so that function is patched in their module meanwhile.
    """

    def given(shape: Sequence[int], *args: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        drawn = noise()
        assert drawn.shape == tuple(shape), (drawn.shape, shape)
        return drawn if dtype is None else drawn.to(dtype)

    module = sys.modules[inspect.unwrap(type(scheduler).step).__module__]
    if not hasattr(module, "randn_tensor"):  # a sampler without noise
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

    `noise` returns the sampler's own noise, (B,C,H,W), whenever it needs some; `ahead` is called when there is time to
    prefetch the next. `watch` is called for every call of the model, with its number, timestep and input. Timesteps are
    on the CPU for the scheduler, which looks up its tables there, and on the device for the model.
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


class Pass(NamedTuple):
    """The kinds of samples that are denoised together, as they have the same variables."""

    view: View
    sampler: Sampler  # of the view's variables
    kinds: dict[str, Drawn]

    def sizes(self, start: int, size: int) -> dict[str, int]:
        """Return how many images of each kind there are in the batch of `size` that starts with image `start`."""
        return {name: min(kind.count - start, size) for name, kind in self.kinds.items() if kind.count > start}


def passes(denoiser: Denoiser, sampler: Sampler, kinds: dict[str, Drawn]) -> list[Pass]:
    """Return the kinds that are sampled in x itself as one pass, and each of the others as one of its own."""
    views = {name: kind.view(denoiser) for name, kind in kinds.items()}
    plain = [name for name, view in views.items() if type(view) is View]
    groups = [*([plain] if plain else []), *([name] for name in kinds if name not in plain)]
    return [
        Pass(
            view := views[names[0]],
            replace(sampler, scheduler=view.scheduler(sampler.scheduler)),
            {name: kinds[name] for name in names},
        )
        for names in groups
    ]


def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    kinds: dict[str, Drawn],
    batch_size: int,  # images of each kind per batch
    seed: int,
    folder: Path,  # gets one file per batch, and the trajectory; existing files are kept
    accelerator: Accelerator,
    every: float = 10.0,  # seconds between progress lines
) -> None:
    """Sample images of each kind into `folder`, all from the same noise, distributed over the processes."""
    device, trajectory = accelerator.device, folder.parent / TRAJECTORY
    count = max(kind.count for kind in kinds.values())
    starts = list(range(0, count, batch_size))
    mine = starts[accelerator.process_index :: accelerator.num_processes]
    # The trajectory is the first batch's, and is written again with it.
    needed = {start: [shard_path(folder, start), *([trajectory] if start == 0 else [])] for start in mine}
    missing = [start for start, paths in needed.items() if not all(map(artifacts.whole, paths))]
    if len(missing) < len(mine):
        log.info("resuming after %d of %d batches of samples", len(mine) - len(missing), len(mine))
    calls, together = sampler.calls, passes(denoiser, sampler, kinds)

    def drawn(start: int) -> list[tuple[Pass, dict[str, int]]]:
        return [(one, sizes) for one in together if (sizes := one.sizes(start, batch_size))]

    total, left = (calls * sum(len(drawn(start)) for start in those) for those in (mine, missing))
    with progress("sample", total, total - left, "model calls", every, accelerator.is_main_process) as meter:

        def batch(start: int) -> None:
            parts = drawn(start)
            counts = {name: size for _, sizes in parts for name, size in sizes.items()}
            states = Trajectory(trajectory, calls, counts) if start == 0 else None
            found: dict[str, Tensor] = {}
            for one, sizes in parts:
                noise = noise_of(denoiser.shape, seed, range(start, start + max(counts.values())), device)

                def watch(call: int, t: Tensor, z: Tensor, one: Pass = one, sizes: dict[str, int] = sizes) -> None:
                    meter.advance()
                    if states and call in states.calls:
                        states.add(split(one.view.show(z, t), sizes), t)

                x = drawn_together(one, sizes, noise, watch)
                found |= split(to_uint8(x).cpu(), sizes)
                if states:
                    states.add(split(x, sizes))
            if states:  # before its shard, so that a shard implies its trajectory, even after a kill
                states.save()
            with artifacts.atomic(shard_path(folder, start)) as scratch:
                save_file({kind: pixels.contiguous() for kind, pixels in found.items()}, scratch)

        for start in missing:
            steady(partial(batch, start))


def drawn_together(
    one: Pass, sizes: dict[str, int], noise: Noise, watch: Callable[[int, Tensor, Tensor], None]
) -> Tensor:
    """Return the images of a pass (B,C,H,W), `sizes` of each kind one after the other; `watch` is for `denoise`."""
    eps = next(noise)
    x = torch.cat([one.kinds[name].prior(eps[:size]) for name, size in sizes.items()])
    x = denoise(one.view, one.sampler, x, partial(shared, noise, [*sizes.values()]), noise.ahead, watch)
    if not x.isfinite().all():
        raise RunError("sample: the sampler returned non-finite values; use sample.precision=fp32")
    return x


def split(x: Tensor, sizes: dict[str, int]) -> dict[str, Tensor]:
    """Return the part of each kind of x (B,C,H,W), which has `sizes` images of them one after the other."""
    return dict(zip(sizes, x.split([*sizes.values()]), strict=True))


def shared(noise: Noise, sizes: list[int]) -> Tensor:
    """Return the next draw for a batch of several kinds, `sizes` images of each: all get the same noise."""
    drawn = next(noise)
    return torch.cat([drawn[:size] for size in sizes])


def shard_path(folder: Path, start: int) -> Path:
    """Return the file of the batch that starts with image `start`."""
    return folder / f"{start:08d}.safetensors"


def shards(folder: Path, kind: str, count: int = sys.maxsize, peers: Peers = ALONE) -> Iterator[Tensor]:
    """Yield the batches of one kind, uint8 (B,C,H,W), that `sample` wrote to `folder`, in the order of their images.

    Of the first `count` images; and of several `peers`, to each those batches that are its own.
    """
    starts = sorted(start for path in folder.glob("*.safetensors") if (start := int(path.stem)) < count)
    for start in peers.mine(starts):
        with safe_open(shard_path(folder, start), "pt") as shard:
            if kind in shard.keys():  # noqa: SIM118 (it is no dict)
                yield shard.get_tensor(kind)[: count - start]
