"""Small things that many tests need: a schedule, images, an attack, a UNet, a loop without ceremony."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from torch import nn

from bdiff.attack.baddiffusion import BadDiffusion
from bdiff.data.base import TensorImages
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import Rows
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import LoopConfig, Session, TrainConfig
from bdiff.diffusion.view import View
from bdiff.target.base import to_target
from bdiff.target.corner import corner
from bdiff.trigger.base import Trigger
from bdiff.trigger.box import box

SIZE = 8
TRAIN_CONFIG = TrainConfig(
    steps=12, epochs=None, batch_size=6, optimizer="adam", lr=1e-3, weight_decay=0.0, warmup=4, clip_norm=1.0,
    ema=0.9, precision="fp32",
)  # fmt: skip
LOOP = LoopConfig(
    compile=False, micro_batch=None, recompute=False, workers=0, checkpoint_seconds=0.0, keep=2, log_every=1,
    progress=1000.0,
)  # fmt: skip


def schedule(steps: int = 20) -> Schedule:
    """A short schedule that ends in noise."""
    return Schedule(steps, 0.005, 0.4, "linear")


def images(count: int = 20, channels: int = 1) -> TensorImages:
    """Random images of `SIZE` px with two classes."""
    pixels = torch.randint(256, (count, channels, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    return TensorImages(
        name="toy",
        split="train",
        classes=("even", "odd"),
        labels=torch.arange(count) % 2,
        shape=(channels, SIZE, SIZE),
        flip=False,
        fingerprint=f"toy{count}",
        pixels=pixels.to(torch.uint8),
    )


def attack(rate: float = 0.3, channels: int = 1) -> BadDiffusion:
    """BadDiffusion with a box and a corner."""
    picture = box(size=SIZE, side=14)
    target = to_target(corner(size=SIZE, trigger=picture), channels)
    return BadDiffusion(Trigger.from_picture(picture, channels), target, rate, "replace")


class Fixed:
    """The random numbers of a step, as given."""

    def __init__(self, t: torch.Tensor, eps: torch.Tensor):
        self.t, self.eps = (lambda: t), (lambda: eps)


def poisoned(attack, schedule, x, bad, t, eps, mirrored=None) -> tuple[torch.Tensor, torch.Tensor]:
    """What an attack makes of images x, of which `bad` are poisoned, at timesteps t: x_t and the answer."""
    mirrored = torch.zeros_like(bad) if mirrored is None else mirrored
    x_t, _, answer = attack.poison(schedule, Rows(x, torch.arange(len(bad)), bad, mirrored), Fixed(t, eps))
    return x_t, answer


def unet(channels: int = 1) -> UNet2DModel:
    """A UNet of a few thousand weights, the same every time."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )


def denoiser(channels: int = 1) -> Denoiser:
    """`unet` with its schedule."""
    return Denoiser(unet(channels), schedule(), (channels, SIZE, SIZE))


def weights(model: nn.Module) -> torch.Tensor:
    """All weights in one vector."""
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


class Killed(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


class Seen(View):
    """x itself, as a network sees it that is called as diffusers' are."""

    def __init__(self, network):
        self.network = network

    def eps(self, z, t):
        return self.network(z, t, return_dict=False)[0]


def train_config(**changes) -> TrainConfig:
    """`TRAIN_CONFIG` with changes."""
    return replace(TRAIN_CONFIG, **changes)


def accelerator() -> Accelerator:
    """Accelerate on the CPU."""
    return Accelerator(cpu=True, mixed_precision="no")


def session(folder, loop: LoopConfig = LOOP, processes=None) -> Session:
    """A training in `folder`."""
    return Session(folder, loop, processes or accelerator())
