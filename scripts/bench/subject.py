"""What a figure is taken of: a network with random weights, its schedule, and images of noise."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bdiff.common.device import autocast, open_device, resolve_precision, synchronize
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.data.base import TensorImages
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.schedule import Schedule
from bdiff.pipeline.prepare import without

#: the networks by name: the words of a request that has them
SUBJECTS = {
    "digits": ["data=digits"],
    "cifar10_small": ["data=cifar10", "model=cifar10_small"],
    "cifar10": ["data=cifar10"],
    "celebahq": ["data=celebahq"],
    "tiny": ["data=digits", "model.unet.block_out_channels=[8,8,8]"],
}


@dataclass(frozen=True)
class Subject:
    """A network that is built anew, with the same weights, whenever one is asked for."""

    name: str
    device: torch.device
    precision: str  # bf16 or fp32, of bdiff and the bare network
    schedule: Schedule
    shape: tuple[int, int, int]
    arguments: dict[str, Any]

    @property
    def tiny(self) -> bool:
        """Whether it is a miniature, for trying the benchmarks themselves."""
        return self.name == "tiny"

    def net(self) -> UNet2DModel:
        """Return the network, on the device."""
        torch.manual_seed(0)
        return UNet2DModel(**self.arguments).to(self.device)

    def suspect(self, batch: int | None = None, gradients: bool = False) -> Suspect:
        """Return the network as a defense sees it; compiled for batches of `batch`, if one is given."""
        suspect = Suspect(self.net(), self.schedule, self.shape, self.device, precision=self.precision)
        if batch:
            suspect.engine.compile(batch, gradients)
        return suspect

    def images(self, count: int = 4096) -> TensorImages:
        """Return images of noise on the device."""
        pixels = torch.randint(256, (count, *self.shape), dtype=torch.uint8)
        return TensorImages(
            name="noise", split="train", classes=("a",), labels=torch.zeros(count, dtype=torch.long), shape=self.shape,
            flip=True, fingerprint="noise", pixels=pixels.to(self.device),
        )  # fmt: skip

    def noise(self, count: int) -> Tensor:
        """Return noise (count,C,H,W) on the device."""
        return torch.randn((count, *self.shape), device=self.device)

    def bare(self, batch: int, calls: int = 5) -> Callable[[], float]:
        """Return the rate, images a second, of nothing but the network in eager mode."""
        net, x = self.net().eval(), self.noise(batch)
        t = torch.full((batch,), 7, device=self.device)

        @torch.inference_mode()
        def call() -> None:
            with autocast(self.precision, self.device):
                net(x, t)

        return self.rate(call, batch, calls)

    def rate(self, work: Callable[[], Any], units: float, calls: int = 1) -> Callable[[], float]:
        """Return what times `calls` of `work`, of so many `units` each, and gives the units a second."""

        def contender() -> float:
            synchronize(self.device)
            began = time.perf_counter()
            for _ in range(calls):
                work()
            synchronize(self.device)
            return units * calls / (time.perf_counter() - began)

        return contender

    def flops(self) -> float:
        """Return the floating-point operations of one image's way through the network, multiply and add apart."""
        net, x = self.net(), torch.zeros((1, *self.shape), device=self.device)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x, 0)
        return float(counter.get_total_flops())

    @property
    def config(self) -> dict[str, Any]:
        """What has to be known of it to compare figures."""
        weights = sum(one.numel() for one in self.net().parameters())
        return {
            "network": self.name,
            "weights": weights,
            "shape": list(self.shape),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
        }


def subject(name: str, device: str, precision: str = "auto") -> Subject:
    """Return the subject `name`, of `SUBJECTS`, on a device."""
    (config,) = jobs([*SUBJECTS[name], "model.pretrained=null"], False)
    arguments = without(config.model.unet, "_target_")
    shape = (config.data.channels, config.data.size, config.data.size)
    on = open_device(device).device
    return Subject(name, on, resolve_precision(precision, on), make(config.schedule).to(on), shape, arguments)
