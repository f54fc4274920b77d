"""Training, images a second: bdiff's loop, a bare step of the network, and diffusers' unconditional training script."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bdiff.common.device import autocast, open_device, synchronize
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import clean, denoising_loss
from bdiff.diffusion.training import LoopConfig, Session, TrainConfig, fit
from bench.subject import Subject
from bench.timing import Figures, rates

TRAIN = TrainConfig(
    steps=1, epochs=None, batch_size=128, optimizer="adam", lr=2e-4, weight_decay=0.0, warmup=0, clip_norm=1.0,
    ema=0.999, precision="bf16",
)  # fmt: skip
LOOP = LoopConfig(
    compile=False,
    micro_batch=None,
    recompute=False,
    workers=0,
    checkpoint_seconds=1e9,
    keep=1,
    log_every=10,
    progress=1e9,
)


def training(on: Subject, batch: int, steps: int = 6) -> Figures:
    """Train `steps` steps of `batch` rows, each way."""
    contenders = {
        "bdiff": trained(on, batch, steps, replace(LOOP, compile=True)),
        "bdiff_eager": trained(on, batch, steps, LOOP),
        "bare": bare(on, batch, steps),
        "script": script(on, batch, steps, "fp32"),
        "script_bf16": script(on, batch, steps, "bf16"),
    }
    over = [("bdiff", "bare"), ("bdiff", "script"), ("bdiff", "script_bf16"), ("bdiff_eager", "bare"),
            ("bdiff_eager", "script")]  # fmt: skip
    config = on.config | {"batch": batch, "steps": steps, "compile time": "left out"}
    return Figures(config, rates(contenders, over) | {"flops": 3 * on.flops()})


class Stopwatch:
    """Reads the clock between the steps of a training, as a companion of its model."""

    def __init__(self, device: torch.device, first: int, last: int):
        self.device, self.step, self.at = device, 0, {first: 0.0, last: 0.0}

    def update(self, model: nn.Module, generator: torch.Generator) -> None:
        """Read the clock after a step that is to be read."""
        self.step += 1
        if self.step in self.at:
            synchronize(self.device)
            self.at[self.step] = time.perf_counter()

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing, since nothing is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take nothing."""

    @property
    def seconds(self) -> float:
        """The time from the first reading to the last."""
        first, last = self.at.values()
        return last - first


def trained(on: Subject, batch: int, steps: int, loop: LoopConfig, first: int = 3) -> Callable[[], float]:
    """Return the rate of `fit` after its first steps."""
    images, processes = on.images(), open_device(on.device.type)
    train = replace(TRAIN, steps=first + steps, batch_size=batch, precision=on.precision)

    def contender() -> float:
        denoiser, watch = (
            Denoiser(on.net(), on.schedule, on.shape, on.device),
            Stopwatch(on.device, first, first + steps),
        )
        loss = denoising_loss(clean, on.schedule, None, True)
        with tempfile.TemporaryDirectory() as folder:
            session = Session(Path(folder), loop, processes)
            fit(denoiser, loss, images, torch.arange(len(images)), train, 0, session, watch)
        return batch * steps / watch.seconds

    return contender


def bare(on: Subject, batch: int, steps: int) -> Callable[[], float]:
    """Return the rate of nothing but the network, forth and back."""
    net, x = on.net().train(), on.noise(batch)
    t = torch.randint(len(on.schedule), (batch,), device=on.device)

    def step() -> None:
        with autocast(on.precision, on.device):
            loss = net(x, t).sample.float().square().mean()
        loss.backward()
        net.zero_grad()

    return on.rate(step, batch, steps)


def script(on: Subject, batch: int, steps: int, precision: str) -> Callable[[], float]:
    """Return the rate of diffusers' unconditional training: its scheduler, AdamW, clipping, EMA, a loss read."""
    net, images = on.net().train(), on.images()
    arguments: dict[str, Any] = on.schedule.config
    scheduler = DDPMScheduler(**arguments)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    ema = EMAModel(net.parameters(), decay=0.9999)

    def step() -> None:
        rows = torch.randint(len(images), (batch,))
        x = images.pixels[rows.to(on.device)].float() / 127.5 - 1
        noise = torch.randn_like(x)
        t = torch.randint(0, len(on.schedule), (batch,), device=on.device).long()
        noisy = scheduler.add_noise(x, noise, t)
        with autocast(precision, on.device):
            loss = mse_loss(net(noisy, t).sample.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        loss.detach().item()

    return on.rate(step, batch, steps)
