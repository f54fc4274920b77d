"""How fast the loops are: bdiff's own, beside the bare network and what a user would run instead, in the same process.

Figures are rates; `share` is what part of the measured bf16 matmul rate they come to, by FLOPs that are counted.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from bdiff.classifier.resnet18 import ResNet18
from bdiff.common.device import autocast, open_device, synchronize
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.data.base import TensorImages
from bdiff.defense.detection.elijah import Elijah
from bdiff.defense.detection.purediffusion import PureDiffusion
from bdiff.defense.shields.votes import Certificate, Count, Votes
from bdiff.diffusion.denoiser import Denoiser, Suspect
from bdiff.diffusion.objective import clean, denoising_loss
from bdiff.diffusion.sampling import Drawn, Sampler, sample
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import LoopConfig, Session, TrainConfig, fit
from bdiff.metric.fid.base import Frechet, distance
from bdiff.metric.fid.classifier import ClassifierFeatures
from bdiff.pipeline.suspect import method
from bdiff.store.provenance import device_name
from card.facts import seconds
from card.kept import keep

RECIPE = TrainConfig(
    steps=1, epochs=None, batch_size=128, optimizer="adam", lr=2e-4, weight_decay=0.0, warmup=0, clip_norm=1.0,
    ema=0.999, precision="bf16",
)  # fmt: skip
LOOP = LoopConfig(
    compile=False, micro_batch=None, recompute=False, workers=0, checkpoint_seconds=1e9, keep=1, log_every=10,
    progress=1e9,
)  # fmt: skip


@dataclass
class Bench:
    """What a figure is taken of: the 35.7 M DDPM at 32 px with random weights, or a tiny one."""

    asked: argparse.Namespace
    device: torch.device
    schedule: Schedule
    shape: tuple[int, int, int]
    arguments: dict[str, Any]

    @property
    def tiny(self) -> bool:
        """Whether it is the miniature."""
        return self.asked.tiny

    def net(self) -> UNet2DModel:
        """Return the network, the same every time."""
        torch.manual_seed(0)
        return UNet2DModel(**self.arguments).to(self.device)

    def images(self, count: int = 4096) -> TensorImages:
        """Return images of noise on the device."""
        pixels = torch.randint(256, (count, *self.shape), dtype=torch.uint8)
        return TensorImages(
            name="noise", split="train", classes=("a",), labels=torch.zeros(count, dtype=torch.long), shape=self.shape,
            flip=True, fingerprint="noise", pixels=pixels.to(self.device),
        )  # fmt: skip

    def flops(self) -> float:
        """Return the floating-point operations of one image's way through the network, multiply and add apart."""
        net, x = self.net(), torch.zeros((1, *self.shape), device=self.device)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x, 0)
        return float(counter.get_total_flops())

    def share(self, rate: float, flops: float) -> dict[str, float]:
        """Return what part of the measured matmul rate so many images a second come to; nothing if it is not known."""
        path = self.asked.state / "results" / "machine.json"
        if not path.exists():
            return {}
        return {"share": rate * flops / json.loads(path.read_text())["metrics"]["matmul_bf16_flops"]}

    def keep(self, name: str, config: dict[str, Any], metrics: dict[str, float], **more: Any) -> None:
        """Keep a result, with the memory it took at most."""
        if self.device.type == "cuda":
            metrics["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self.device)
        config = {"weights": sum(one.numel() for one in self.net().parameters()), "shape": list(self.shape)} | config
        keep(self.asked.state, name, config, metrics, device=device_name(self.device), **more)


def bench(asked: argparse.Namespace) -> Bench:
    """Return the bench on the device."""
    words = ["data=digits", "model.unet.block_out_channels=[8,8,8]"] if asked.tiny else ["data=cifar10"]
    (config,) = jobs([*words, "model.pretrained=null"], False)
    arguments: Any = {name: value for name, value in config.model.unet.items() if name != "_target_"}
    arguments = {name: list(value) if "List" in type(value).__name__ else value for name, value in arguments.items()}
    shape = (config.data.channels, config.data.size, config.data.size)
    device = open_device(asked.device).device
    return Bench(asked, device, make(config.schedule).to(device), shape, arguments)


def training(asked: argparse.Namespace) -> None:
    """Training images/s: bdiff's loop, the bare network forth and back, and the unconditional recipe."""
    on = bench(asked)
    metrics: dict[str, float] = {}
    for batch in (8,) if on.tiny else (128, 512):
        loop = trained(on, batch, LOOP)
        bare = batch / seconds(bare_step(on, batch), on.device, *rounds(on))
        theirs = batch / seconds(recipe_step(on, batch), on.device, *rounds(on))
        metrics |= {f"images_per_second_{batch}": loop, f"bare_{batch}": bare, f"recipe_{batch}": theirs}
        metrics |= {f"over_bare_{batch}": loop / bare, f"over_recipe_{batch}": loop / theirs}
        metrics |= {f"{name}_{batch}": value for name, value in on.share(loop, 3 * on.flops()).items()}
    on.keep("training", {"precision": "bf16", "mode": "eager"}, metrics)


def rounds(on: Bench) -> tuple[int, int]:
    """Return how many times something is timed, and how many before that."""
    return (2, 1) if on.tiny else (7, 3)


def trained(on: Bench, batch: int, loop: LoopConfig, few: int = 10, many: int = 40) -> float:
    """Return the images/s of `fit`: by the steps that a longer training has more, so that its start does not count."""
    few, many = (2, 6) if on.tiny else (few, many)
    images, took = on.images(), {}
    denoiser, processes = Denoiser(on.net(), on.schedule, on.shape, on.device), open_device(on.asked.device)
    for steps in (few, few, many):  # the first is the warm-up
        loss = denoising_loss(clean, on.schedule, None, True)
        with tempfile.TemporaryDirectory() as folder:
            synchronize(on.device)
            began = time.perf_counter()
            recipe = replace(RECIPE, steps=steps, batch_size=batch)
            fit(denoiser, loss, images, torch.arange(len(images)), recipe, 0, Session(Path(folder), loop, processes))
            synchronize(on.device)
            took[steps] = time.perf_counter() - began
    return batch * (many - few) / (took[many] - took[few])


def bare_step(on: Bench, batch: int) -> Callable[[], None]:
    """Return a step of nothing but the network, forth and back in bf16."""
    net, x = on.net().train(), torch.randn((batch, *on.shape), device=on.device)
    t = torch.randint(len(on.schedule), (batch,), device=on.device)

    def step() -> None:
        with autocast("bf16", on.device):
            loss = net(x, t).sample.float().square().mean()
        loss.backward()
        net.zero_grad()

    return step


def recipe_step(on: Bench, batch: int) -> Callable[[], None]:
    """Return a step as diffusers' unconditional training has it: its scheduler, AdamW, clipping, EMA, a loss read."""
    net, images = on.net().train(), on.images()
    scheduler = DDPMScheduler(**on.schedule.config)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    ema = EMAModel(net.parameters(), decay=0.9999)

    def step() -> None:
        rows = torch.randint(len(images), (batch,))
        x = (images.pixels[rows.to(on.device)].float() / 127.5 - 1).to(on.device)
        noise = torch.randn_like(x)
        t = torch.randint(0, len(on.schedule), (batch,), device=on.device).long()
        noisy = scheduler.add_noise(x, noise, t)
        with autocast("bf16", on.device):
            loss = mse_loss(net(noisy, t).sample.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        loss.detach().item()

    return step


def sampling(asked: argparse.Namespace) -> None:
    """Sampling image-steps/s, two kinds at a time: bdiff's loop, the bare network, and DDPMPipeline in fp32."""
    on = bench(asked)
    metrics: dict[str, float] = {}
    for images in (8,) if on.tiny else (256, 1024):
        few, many = (2, 6) if on.tiny else (5, 25)
        took = {}
        for steps in (few, few, many):
            synchronize(on.device)
            began = time.perf_counter()
            sampled(on, images // 2, steps)
            took[steps] = time.perf_counter() - began
        loop = images * (many - few) / (took[many] - took[few])
        net, x = on.net().eval(), torch.randn((images, *on.shape), device=on.device)
        bare = images / seconds(partial(bare_call, on, net, x), on.device, *rounds(on))
        pipeline = DDPMPipeline(unet=on.net(), scheduler=DDPMScheduler(**on.schedule.config))
        pipeline.set_progress_bar_config(disable=True)
        call = partial(pipeline, batch_size=images, output_type="np")
        calls = {k: seconds(partial(call, num_inference_steps=k), on.device, 1, 1) for k in (2, 6)}
        theirs = images * 4 / (calls[6] - calls[2])
        metrics |= {f"image_steps_per_second_{images}": loop, f"bare_{images}": bare, f"pipeline_fp32_{images}": theirs}
        metrics |= {f"over_bare_{images}": loop / bare, f"over_pipeline_{images}": loop / theirs}
        metrics |= {f"{name}_{images}": value for name, value in on.share(loop, on.flops()).items()}
    on.keep("sampling", {"precision": "bf16", "sampler": "DDPMScheduler", "mode": "eager"}, metrics)


def sampled(on: Bench, count: int, steps: int) -> None:
    """Draw `count` clean and as many triggered samples."""
    kinds = {"clean": Drawn(lambda eps: eps, count), "triggered": Drawn(lambda eps: eps + 0.1, count)}
    with tempfile.TemporaryDirectory() as folder:
        suspect = Suspect(on.net(), on.schedule, on.shape, on.device, precision="bf16")
        sampler, processes = Sampler(DDPMScheduler(**on.schedule.config), steps), open_device(on.asked.device)
        sample(suspect, sampler, kinds, count, 0, Path(folder) / "shards", processes, 1e9)


@torch.no_grad()
def bare_call(on: Bench, net: nn.Module, x: Tensor) -> None:
    """Evaluate the network once."""
    with autocast("bf16", on.device):
        net(x, 0)


def inversion(asked: argparse.Namespace) -> None:
    """Inversion steps/s of PureDiffusion and Elijah, and of Elijah as published: fp32, gradients for the weights."""
    on = bench(asked)
    metrics: dict[str, float] = {}
    few, many = (1, 3) if on.tiny else (3, 13)
    small = ["defense.batch=2"] if on.tiny else []
    for name, words in (("elijah", []), ("purediffusion", ["defense.probes=0", "defense.restarts=1"])):
        took, shown = {}, {}
        for steps in (few, few, many):
            (config,) = jobs([f"defense={name}", *words, *small, f"defense.steps={steps}"], False)
            audit: Elijah | PureDiffusion = method(config.defense)
            suspect = Suspect(on.net(), on.schedule, on.shape, on.device, precision="bf16")
            synchronize(on.device)
            began = time.perf_counter()
            audit.invert(suspect, 0)
            synchronize(on.device)
            took[steps], shown[steps] = time.perf_counter() - began, suspect.evaluations
        metrics[f"{name}_steps_per_second"] = (many - few) / (took[many] - took[few])
        metrics[f"{name}_images_per_second"] = (shown[many] - shown[few]) / (took[many] - took[few])
    net, batch = on.net(), 2 if on.tiny else 100
    tau = torch.zeros(on.shape, device=on.device, requires_grad=True)
    eps = torch.randn((batch, *on.shape), device=on.device)

    def published() -> None:
        loss = (0.5 * tau - net(eps + tau, len(on.schedule) - 1).sample.mean(0)).abs().mean()
        loss.backward()
        loss.item()

    theirs = 1 / seconds(published, on.device, *rounds(on))
    metrics |= {"elijah_published_steps_per_second": theirs}
    metrics |= {"elijah_over_published": metrics["elijah_steps_per_second"] / theirs}
    on.keep("inversion", {"precision": "bf16"}, metrics)


def certification(asked: argparse.Namespace) -> None:
    """Certification draws/s behind one-shot denoising, beside the bare networks and Cohen's loop over single images."""
    on = bench(asked)
    suspect, classifier = (
        Suspect(on.net(), on.schedule, on.shape, on.device, precision="bf16"),
        ResNet18(on.shape[0], 10),
    )
    classifier.to(on.device).eval()
    images, batch, draws = (2, 8, 16) if on.tiny else (16, 500, 1000)

    @torch.inference_mode()
    def logits(x: Tensor) -> Tensor:
        t = len(on.schedule) // 10
        clean = on.schedule.x0(x, suspect.eps(x, t), t).clamp(-1, 1)
        with autocast("bf16", on.device):
            return classifier(clean).float()

    def count() -> Count:
        votes = yield draws
        return Certificate(int(votes.argmax()), 0.0, draws)

    x = torch.zeros((images, *on.shape), device=on.device)
    votes = Votes(logits, x, 0.25, batch, 0)
    loop = images * draws / seconds(lambda: list(votes.run([(k, k, count()) for k in range(images)])), on.device, 2, 1)
    noise = torch.randn((batch, *on.shape), device=on.device)
    bare = batch / seconds(lambda: logits(noise), on.device, *rounds(on))

    @torch.inference_mode()
    def cohens() -> None:
        for image in x[:2]:
            for _ in range(2):
                noise = torch.randn((batch, *on.shape), device=on.device)
                logits(image + 0.5 * noise).argmax(1).cpu()

    theirs = 4 * batch / seconds(cohens, on.device, *rounds(on))
    metrics = {"draws_per_second": loop, "bare": bare, "cohens_loop": theirs, "over_bare": loop / bare}
    metrics |= {"over_cohens": loop / theirs}
    on.keep("certification", {"precision": "bf16", "batch": batch, "classifier": "ResNet18"}, metrics)


def fid(asked: argparse.Namespace) -> None:
    """Images/s through a ResNet-18's features and running sums, and the seconds of a distance over 2,048 features."""
    on = bench(asked)
    features = ClassifierFeatures(ResNet18(on.shape[0], 10).to(on.device), {})
    frechet = Frechet(features, on.device)
    pixels = torch.randint(256, (8 if on.tiny else 512, *on.shape), dtype=torch.uint8)
    rate = len(pixels) / seconds(lambda: frechet.feed([pixels], real=True), on.device, *rounds(on))
    size = 64 if on.tiny else 2048
    x = torch.randn((2, 2 * size, size), device=on.device, dtype=torch.float64)
    moments = [(one.mean(0), one.T.cov()) for one in x]
    took = seconds(lambda: distance(*moments[0], *moments[1]).item(), on.device, *rounds(on))
    on.keep("fid", {"features": "ResNet18", "precision": "fp32"},
            {"images_per_second": rate, "distance_2048_seconds": took})  # fmt: skip


def compiled(asked: argparse.Namespace) -> None:
    """Training images/s with runtime.compile=true, and what compiling takes."""
    on = bench(asked)
    batch = 8 if on.tiny else 128
    began = time.perf_counter()
    rate = trained(on, batch, replace(LOOP, compile=True))
    metrics = {f"images_per_second_{batch}": rate, "seconds_in_all": time.perf_counter() - began}
    on.keep("compiled", {"precision": "bf16", "mode": "compiled"}, metrics)


def profile(asked: argparse.Namespace) -> None:
    """The kernels that training and sampling spend their time in, and the share of it that the card waits."""
    from torch.profiler import ProfilerActivity

    on = bench(asked)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on.device.type == "cuda" else [])]
    batch = 8 if on.tiny else 128
    works = {"training": lambda: trained(on, batch, LOOP, 3, 8), "sampling": lambda: sampled(on, batch, 6)}
    metrics, tables = {}, {}
    for name, work in works.items():
        work()
        synchronize(on.device)
        began = time.perf_counter()
        with torch.profiler.profile(activities=kinds) as seen:
            work()
            synchronize(on.device)
        wall, events = time.perf_counter() - began, seen.key_averages()
        order = "self_device_time_total" if on.device.type == "cuda" else "self_cpu_time_total"
        tables[name] = events.table(sort_by=order, row_limit=20, max_name_column_width=60)
        if on.device.type == "cuda":
            busy = sum(one.self_device_time_total for one in events) / 1e6
            metrics |= {f"{name}_busy_share": busy / wall, f"{name}_wall_seconds": wall}
    on.keep("profile", {"batch": batch}, metrics, tables=tables)
