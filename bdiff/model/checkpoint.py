"""Stock diffusers checkpoints, in and out."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.utils import logging as quiet
from safetensors.torch import load_file, save_file
from torch import Tensor

from bdiff.common.downloads import NotHere, allowed, forbidden
from bdiff.common.errors import RequestError
from bdiff.common.pickles import first_line, refusal
from bdiff.common.progress import console
from bdiff.diffusion.denoiser import EPSILON, Denoiser, Suspect
from bdiff.diffusion.schedule import Schedule
from bdiff.model.check import (
    SHARD,
    WEIGHTS,
    config_path,
    home,
    mismatches,
    notes,
    read,
    scheduler_path,
    variant,
    weights_path,
    weights_problems,
)
from bdiff.model.classes import of_class
from bdiff.model.wrapped import peeled, words
from bdiff.store import artifacts
from bdiff.store.integrity import entries

log = logging.getLogger(__name__)
SIDECAR = "bdiff.json"
LEARNED = "attack.safetensors"
START = "model.pretrained="  # what messages call the checkpoint that training starts from
FILES = ["*.json", "*.safetensors", "*.bin"]  # of a model on the hub


def build(unet: dict[str, Any], pretrained: str | None) -> UNet2DModel:
    """Return the UNet of conf/model's `unet`, with the weights of `pretrained` if given, else new ones.

    `examine` checks whether these fit. Raises RequestError if they are not available.
    """
    arguments = {name: value for name, value in unet.items() if name != "_target_"}
    if pretrained is None:
        return UNet2DModel(**arguments)
    found = load(fetch(pretrained))
    if found.config["sample_size"] != arguments["sample_size"]:  # a pair, or null
        found.register_to_config(sample_size=arguments["sample_size"])
    return found


def examine(pretrained: str, unet: dict[str, Any], schedule: Schedule) -> None:
    """Log what is assumed about the checkpoint `pretrained`.

    Raises RequestError if it is not available, is damaged or does not fit the data and the schedule.
    """
    folder = fetch(pretrained)
    try:
        found, noise = read(config_path(folder)), read(scheduler_path(folder))
    except (OSError, ValueError) as error:
        raise RequestError(f"model.pretrained={pretrained} cannot be read ({error})") from error
    if problems := mismatches(pretrained, found, noise, unet, schedule.config) or weights_problems(pretrained, folder):
        raise RequestError(*problems)
    load(folder)
    for line in notes(pretrained, folder, unet):
        log.warning("%s", line)


def fetch(pretrained: str, setting: str = START) -> Path:
    """Return the local folder of a diffusers folder or hub id, downloading what is missing.

    `setting` is what messages call it by. Raises RequestError if it is not available.
    """
    local = Path(pretrained).expanduser()
    if local.exists():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with bars():
            return Path(snapshot_download(pretrained, allow_patterns=FILES, local_files_only=not allowed()))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        if not allowed():
            raise NotHere(f"model.pretrained: {pretrained}: not here, to be downloaded") from error
        reason = str(error).strip().splitlines()[0]
        start = "use a local copy (model.pretrained=<folder>), go online, or train from scratch (model.pretrained=null)"
        raise RequestError(
            f"{setting}{pretrained} cannot be fetched ({type(error).__name__}: {reason})",
            f"  {start if setting == START else 'it is no folder here: give one, or go online'}",
        ) from error


@contextmanager
def bars() -> Iterator[None]:
    """Have no progress bars of huggingface_hub meanwhile, if bdiff is to be quiet or has no terminal."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    unseen = (console.quiet_progress or not console.is_terminal) and not are_progress_bars_disabled()
    if unseen:
        disable_progress_bars()
    try:
        yield
    finally:
        if unseen:
            enable_progress_bars()


def here(pretrained: str) -> bool:
    """Return whether the files of a diffusers folder or hub id are on this machine."""
    try:
        with forbidden():
            return fetch(pretrained).is_dir()
    except NotHere:
        return False


def load(folder: Path) -> UNet2DModel:
    """Return the UNet of a diffusers folder; see `opened`."""
    return opened(folder)[0]


def opened(folder: Path) -> tuple[UNet2DModel, list[str]]:
    """Return the UNet of a diffusers folder, and the tensors in its weights that belong to no layer, by name.

    Only tensors are read: safetensors, or a .bin with weights_only. Raises RequestError if it is damaged, or holds
    other objects, which could run code.
    """
    path = weights_path(folder)
    if path is None:
        raise RequestError(f"the checkpoint {folder} has no UNet weights")
    place = home(folder)
    quiet.set_verbosity(logging.CRITICAL)  # its warnings about a checkpoint are replaced by one line of ours
    quiet.disable_progress_bar()
    try:
        with ExitStack() as stack:
            if (plain := unwrapped(path)) is not None:
                place = stack.enter_context(copied(place, plain))
                path = weights_path(place) or path
            unet, about = UNet2DModel.from_pretrained(place, variant=variant(path), output_loading_info=True)
    except Exception as error:  # diffusers and safetensors raise many types; each means the folder is unreadable
        reason = f"cannot be read ({type(error).__name__}: {first_line(error)})"
        raise RequestError(f"the checkpoint {folder} {refusal(error) or reason}") from error
    if missing := sorted(about["missing_keys"]):
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        problem = f"the checkpoint {folder} is incomplete: {len(missing)} weights are missing ({named})"
        if SHARD.search(path.name):
            problem += ", or are in several files under other names: save it again with save_pretrained"
        raise RequestError(problem)
    if not all(weight.isfinite().all() for weight in unet.state_dict().values()):
        raise RequestError(f"the checkpoint {folder} cannot be used, as its weights are not finite: choose another")
    return unet.float(), sorted(about["unexpected_keys"])


def unwrapped(path: Path) -> dict[str, Tensor] | None:
    """Return the weights in `path` under their own names, if they are below an outer key or have a wrapper's prefix."""
    if path.suffix == ".safetensors" and not peeled(entries(path))[1]:
        return None  # after reading only the header
    held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    weights, layers = peeled(held)
    if layers:
        log.info("%s: %s", path, words(layers))
    return weights if layers else None


@contextmanager
def copied(place: Path, weights: dict[str, Tensor]) -> Iterator[Path]:
    """Yield a temporary folder with the config in `place` and these weights, for diffusers to read."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(place / "config.json", folder)
        save_file({name: weight.clone() for name, weight in weights.items()}, Path(folder) / f"{WEIGHTS}.safetensors")
        yield Path(folder)


def prediction_of(folder: Path) -> str:
    """Return what the network of a diffusers folder predicts, in diffusers' terms; epsilon by default."""
    return str(read(scheduler_path(folder)).get("prediction_type") or EPSILON)


def suspect(
    folder: Path,
    schedule: Schedule,
    shape: tuple[int, ...],
    device: torch.device,
    precision: str = "fp32",
    recompute: bool | int = False,
    label: int | None = None,
    prediction: str | None = None,
) -> Suspect:
    """Return the model in a diffusers folder, for the class `label` if it has any, as defenses see it; see `Denoiser`.

    `prediction` is what it predicts, None: by its scheduler's config. Raises RequestError if it cannot be read.
    """
    net = load(folder) if label is None else of_class(load(folder), label)
    return Suspect(net, schedule, shape, device, prediction or prediction_of(folder), precision, recompute)


def learned(folder: Path, device: torch.device) -> dict[str, Tensor]:
    """Return the tensors learned along with the model, as saved by `save`, on `device`; empty if there are none."""
    path = folder / LEARNED
    return load_file(path, device=str(device)) if path.exists() else {}


def save(folder: Path, denoiser: Denoiser, facts: dict[str, Any], learned: dict[str, Tensor] | None = None) -> None:
    """Write `folder` so that `DDPMPipeline.from_pretrained(folder)` opens it; `facts` go into a sidecar json.

    `learned` are tensors that an attack has learned along with the model; they go into a file of their own.
    """
    from diffusers.pipelines.ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler(
        **denoiser.schedule.config,
        prediction_type=denoiser.prediction,
        clip_sample=False,
        variance_type="fixed_large",
    )
    with artifacts.atomic(folder) as scratch:
        DDPMPipeline(unet=cast(UNet2DModel, denoiser.network), scheduler=scheduler).save_pretrained(scratch)
        artifacts.write_json(scratch / SIDECAR, facts)
        if learned:
            save_file({name: one.detach().cpu().contiguous() for name, one in learned.items()}, scratch / LEARNED)


def weights_digest(pretrained: str | None) -> str | None:
    """Return a training key's entry for its initial weights: a digest of a local folder's content, or the hub id."""
    if pretrained is None or not Path(pretrained).expanduser().exists():
        return pretrained
    import hashlib

    total = hashlib.sha256()
    folder = Path(pretrained).expanduser()
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.bin"), config_path(folder)]):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
