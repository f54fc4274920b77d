"""Stock diffusers checkpoints, in and out."""

from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d import UNet2DModel

from bdiff import store
from bdiff.errors import RequestError
from bdiff.model.check import config_path, misfits, scheduler_path
from bdiff.pickles import refusal
from bdiff.schedule import Schedule

SIDECAR = "bdiff.json"


def build(unet: dict[str, Any], pretrained: str | None, schedule: Schedule) -> UNet2DModel:
    """Return the UNet of conf/model's `unet`: the weights of `pretrained` if it is given, else fresh ones.

    Raises RequestError if the checkpoint cannot be had or does not fit the data and the schedule.
    """
    arguments = {name: value for name, value in unet.items() if name != "_target_"}
    if pretrained is None:
        return UNet2DModel(**arguments)
    folder = fetch(pretrained)
    told = misfits(
        pretrained,
        store.read_json(config_path(folder)),
        store.read_json(scheduler_path(folder)) if scheduler_path(folder).exists() else {},
        arguments,
        schedule.config,
    )
    if told:
        raise RequestError(*told)
    return load(folder)


def fetch(pretrained: str) -> Path:
    """Return the local folder of a diffusers folder or hub id, downloading what is missing.

    Raises RequestError where it cannot be had.
    """
    local = Path(pretrained).expanduser()
    if local.exists():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(pretrained, allow_patterns=["*.json", "*.safetensors", "*.bin"]))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(
            f"model.pretrained={pretrained} cannot be fetched ({type(error).__name__}: {reason})",
            "  give a local copy (model.pretrained=<folder>), go online, or train from scratch (model.pretrained=null)",
        ) from error


def load(folder: Path) -> UNet2DModel:
    """Return the UNet of a diffusers folder, of which only tensors are read: safetensors, or a .bin with weights_only.

    Raises RequestError if it is damaged, or holds other objects, which could run code.
    """
    inner = folder / "unet"
    try:
        return UNet2DModel.from_pretrained(inner if inner.is_dir() else folder)
    except Exception as error:  # diffusers and safetensors raise many kinds; each means the folder is unreadable
        reason = f"cannot be read ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
        raise RequestError(f"the checkpoint {folder} {refusal(error) or reason}") from error


def save(folder: Path, unet: UNet2DModel, schedule: Schedule, facts: dict[str, Any]) -> None:
    """Write `folder` so that `DDPMPipeline.from_pretrained(folder)` opens it; `facts` go into a sidecar json."""
    from diffusers.pipelines.ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler(**schedule.config, clip_sample=False, variance_type="fixed_large")
    with store.atomic(folder) as scratch:
        DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(scratch)
        store.write_json(scratch / SIDECAR, facts)


def weights_digest(pretrained: str | None) -> str | None:
    """Return what a training key says of its starting weights: a local folder's content, or the hub id."""
    if pretrained is None or not Path(pretrained).expanduser().exists():
        return pretrained
    import hashlib

    total = hashlib.sha256()
    folder = Path(pretrained).expanduser()
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.bin"), config_path(folder)]):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
