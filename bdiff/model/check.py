"""What can be said of a checkpoint before torch is imported."""

import json
from pathlib import Path
from typing import Any

LAYOUT = "a diffusers folder holds model_index.json, unet/ and scheduler/"


def problems(pretrained: str | None, unet: dict[str, Any], schedule: dict[str, Any]) -> list[str]:
    """Return why `pretrained`, if it is a local folder, cannot be trained further as the request's model.

    A hub id such as google/ddpm-cifar10-32 is looked at when it has been fetched, by `checkpoint.load`.
    """
    if pretrained is None:
        return []
    folder = Path(pretrained).expanduser()
    if not folder.exists():
        # A hub id is owner/name; whatever looks like a path is meant as one.
        if pretrained.count("/") == 1 and not pretrained.startswith((".", "/", "~")):
            return []
        return [f"model.pretrained={pretrained} does not exist: give a diffusers folder or a hub id (owner/name)"]
    try:
        found = json.loads(config_path(folder).read_text())
        noise = json.loads(scheduler_path(folder).read_text()) if scheduler_path(folder).exists() else {}
    except (OSError, ValueError) as error:
        return [f"model.pretrained={pretrained} cannot be read ({error}): {LAYOUT}"]
    return misfits(pretrained, found, noise, unet, schedule)


def misfits(
    name: str, found: dict[str, Any], noise: dict[str, Any], unet: dict[str, Any], schedule: dict[str, Any]
) -> list[str]:
    """Return how a checkpoint's UNet config and scheduler config differ from what the request needs."""
    told = []
    for key in ("in_channels", "out_channels", "sample_size"):
        if found.get(key) != unet[key]:
            word = "size" if key == "sample_size" else "channels"
            told.append(
                f"model.pretrained={name} has {key}={found.get(key)} and the data {unet[key]}: "
                f"set data.{word}={found.get(key)} or choose another checkpoint"
            )
    for key, wanted in schedule.items():
        if key in noise and noise[key] != wanted:
            told.append(
                f"model.pretrained={name} was trained with {key}={noise[key]}, not {wanted}: "
                f"set schedule=linear schedule.{key}={noise[key]}"
            )
    return told


def config_path(folder: Path) -> Path:
    """Return where a diffusers folder keeps its UNet's config (google's older repositories: at the top)."""
    inner = folder / "unet" / "config.json"
    return inner if inner.exists() else folder / "config.json"


def scheduler_path(folder: Path) -> Path:
    """Return where a diffusers folder keeps its scheduler's config."""
    inner = folder / "scheduler" / "scheduler_config.json"
    return inner if inner.exists() else folder / "scheduler_config.json"
