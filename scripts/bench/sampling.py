"""Sampling, image-steps a second: bdiff's loop, the bare network, and DDPMPipeline in fp32 and bf16."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from diffusers import DDPMPipeline, DDPMScheduler

from bdiff.common.device import autocast, open_device
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.sampling import Drawn, Sampler, sample
from bench.subject import Subject
from bench.timing import Figures, rates


def sampling(on: Subject, images: int, steps: int = 10) -> Figures:
    """Draw `images`, half of them triggered, in `steps` steps, each way."""
    contenders = {
        "bdiff": drawn(on, on.suspect(images // 2), images, steps),
        "bdiff_eager": drawn(on, on.suspect(), images, steps),
        "bare": on.bare(images),
        "pipeline_fp32": pipeline(on, "fp32", images, steps),
        "pipeline_bf16": pipeline(on, "bf16", images, steps),
    }
    over = [("bdiff", "bare"), ("bdiff", "pipeline_fp32"), ("bdiff", "pipeline_bf16"), ("bdiff_eager", "bare"),
            ("bdiff_eager", "pipeline_fp32")]  # fmt: skip
    metrics = rates(contenders, over)
    config = on.config | {"sampler": "DDPMScheduler", "images": images, "steps": steps, "compile time": "left out"}
    return Figures(config, metrics | {"flops": on.flops()})


def drawn(on: Subject, suspect: Suspect, images: int, steps: int) -> Callable[[], float]:
    """Return the rate of bdiff's loop, its files on disk included."""
    half = images // 2
    kinds = {"clean": Drawn(lambda eps: eps, half), "triggered": Drawn(lambda eps: eps + 0.1, half)}
    sampler, processes = Sampler(DDPMScheduler(**on.schedule.config), steps), open_device(on.device.type)

    def draw() -> None:
        with tempfile.TemporaryDirectory() as folder:
            sample(suspect, sampler, kinds, half, 0, Path(folder) / "shards", processes, 1e9)

    return on.rate(draw, images * steps)


def pipeline(on: Subject, precision: str, images: int, steps: int) -> Callable[[], float]:
    """Return the rate of diffusers' own pipeline; in bf16 by autocast, as it cannot give bf16 images to numpy."""
    pipe = DDPMPipeline(unet=on.net(), scheduler=DDPMScheduler(**on.schedule.config))
    pipe.set_progress_bar_config(disable=True)

    def draw() -> None:
        with autocast(precision, on.device):
            pipe(batch_size=images, num_inference_steps=steps, output_type="np")

    return on.rate(draw, images * steps)
