"""`bdiff.load_suspect` and `bdiff.audit`: a checkpoint as defenses see it, and a detection's verdict on it."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from bdiff.common.device import open_device, resolve_precision
from bdiff.common.errors import RequestError
from bdiff.common.progress import progress
from bdiff.common.seeds import seed_of
from bdiff.config.keys import plain, resolved
from bdiff.data.base import to_float, to_uint8
from bdiff.defense.base import Detection, Verdict
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.sampling import Sampler, denoise, noise_of
from bdiff.diffusion.schedule import Schedule
from bdiff.library.request import METHOD, composed, overrides_of
from bdiff.model import checkpoint
from bdiff.model.facts import Facts, facts
from bdiff.pipeline.family import family_of, of_family
from bdiff.pipeline.prepare import sampler as scheduler_of
from bdiff.pipeline.sample import SampleKind, clean, shifted
from bdiff.pipeline.suspect import method as made
from bdiff.pipeline.threshold import resolve_threshold
from bdiff.store import artifacts

log = logging.getLogger(__name__)


def load_suspect(
    path_or_id: str | Path,  # a diffusers folder, a run's folder, or a hub id
    *,
    shape: tuple[int, int, int] | None = None,  # (C,H,W) of the images, if the checkpoint does not have it
    schedule: Mapping[str, Any] | None = None,  # as in conf/schedule, if the checkpoint has no scheduler config
    prediction: str | None = None,  # epsilon, sample or v_prediction, if the checkpoint has no scheduler config
    label: int | None = None,  # the class that a class-conditional network is taken for, 0 if None
    device: str = "auto",  # auto, cpu, cuda or cuda:N
    precision: str = "auto",  # of its matrix products: auto (bf16 where the device has it), bf16 or fp32
) -> Suspect:
    """Return a checkpoint's network with its noise schedule, frozen, as the input of a detection.

    Raises RequestError if it is not available, is damaged, has no such class, or is not a UNet2DModel under a schedule
    of betas.
    """
    found = facts_of(path_or_id, shape, schedule, label, prediction)
    here = open_device(device).device
    table = Schedule(**found.schedule)
    precision = resolve_precision(precision, here)
    return checkpoint.suspect(
        found.folder, table, found.shape, here, precision, label=found.label, prediction=found.prediction
    )


def facts_of(
    path_or_id: str | Path,
    shape: tuple[int, int, int] | int | None,
    schedule: Mapping[str, Any] | None,
    label: int | None = None,
    prediction: str | None = None,
) -> Facts:
    """Return what the checkpoint says of itself, which is downloaded first if it is on the hub; see `facts`."""
    asked = str(model_of(Path(path_or_id).expanduser()) or path_or_id)
    folder = checkpoint.fetch(asked, setting="")
    found = facts(str(path_or_id), folder, shape, schedule, label, prediction)
    return replace(found, remote=not Path(asked).expanduser().exists())


def model_of(folder: Path) -> Path | None:
    """Return the checkpoint of the run in `folder`, None if there is no run. RequestError if it is missing."""
    if not (folder / "metrics.json").is_file():
        return None
    record = artifacts.recall(folder / "metrics.json", dict[str, Any]())
    model = Path(record.get("model", folder / "model"))
    if not model.is_dir():
        here = "" if model.is_absolute() else f", as seen from {Path.cwd()}: go where the run was started"
        raise RequestError(f"the model of the run {folder} is missing: {model} is not a folder{here}")
    return model


def audit(
    suspect: Suspect,
    method: str = METHOD,
    *,
    data: str | None = None,  # the dataset it was trained on, if known: a threshold is calibrated for one
    seed: int = 0,
    sampler: str = "ddpm",  # an option of conf/sampler, which samples from an inverted trigger that needs no other
    sampler_steps: int | None = None,  # None: the default of the sampler's option
    **settings: Any,  # of the detection, such as steps=100
) -> Verdict:
    """Return a detection's verdict on a suspect, the same as of a run with `defense=<method>` and these settings.

    If the threshold is `auto`, and its calibration is for other data or settings, no model is flagged and the log says
    why; if it holds, and states a false-positive rate, so does the verdict. Raises RequestError for invalid settings,
    or a defense that is not a detection.
    """
    config = request(suspect, method, seed, sampler, sampler_steps, settings)
    threshold = resolve_threshold(config, data or "unknown")
    if threshold.unflagged:
        log.warning("not flagged: %s", threshold.unflagged)
    if threshold.basis:
        log.info("threshold %s: %s", config.defense.threshold, threshold.basis)
    detection = made(config.defense)
    if not isinstance(detection, Detection):
        raise RequestError(f"defense={method} is not a detection, which bdiff.audit needs")
    with progress("audit", detection.total, unit="steps") as meter:
        inversion = detection.invert(suspect, seed_of(seed, "audit"), lambda line: meter.advance(1, line))
    node, sample = of_family(inversion.family, config.sampler, config.sample, suspect.schedule.config)
    how = Sampler(scheduler_of(node, suspect.schedule, sample.steps), sample.steps, plain(node.step))
    start = shifted(inversion.trigger, inversion.gamma, family_of(node) == "ode")
    samples = drawn(suspect, how, start, detection.reads, seed)
    beside = drawn(suspect, how, clean(), detection.reads, seed) if detection.compares else None
    verdict = detection.verdict(inversion, samples, beside, config.defense.get("flag_by", "score"))
    return replace(verdict, false_positive_rate=threshold.rate)


def request(
    suspect: Suspect, method: str, seed: int, sampler: str, steps: int | None, settings: dict[str, Any]
) -> DictConfig:
    """Return the checked config of a run with this detection on such a model. RequestError if it is invalid."""
    if unread := sorted({"precision", "checkpoint", "repair"} & settings.keys()):
        raise RequestError(f"{unread[0]} is not a setting of bdiff.audit: bdiff.load_suspect sets the precision")
    more = {"seed": seed, **{f"defense.{name}": value for name, value in settings.items()}}
    more |= {"sample.steps": steps} if steps else {}
    words = overrides_of(suspect.shape, suspect.schedule.config, more)
    with composed([f"defense={method}", f"sampler={sampler}", "sample.steps=${sampler.steps}", *words]) as config:
        return resolved(config)


def drawn(suspect: Suspect, sampler: Sampler, kind: SampleKind, count: int, seed: int, batch_size: int = 64) -> Tensor:
    """Return samples (count,C,H,W) in [-1,1] of a kind, the same as in a run."""
    view = kind.view(suspect)
    sampler = replace(sampler, scheduler=view.scheduler(sampler.scheduler))
    parts = [torch.empty(0, *suspect.shape)]
    for start in range(0, count, batch_size):
        rows = range(start, min(start + batch_size, count))
        noise = noise_of(suspect.shape, seed_of(seed, "samples"), rows, suspect.device)
        x = denoise(view, sampler, kind.prior(next(noise)), partial(next, noise), noise.ahead)
        parts.append(to_float(to_uint8(x)).cpu())
    return torch.cat(parts)
