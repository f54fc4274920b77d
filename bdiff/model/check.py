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
    name = f"model.pretrained={pretrained}"
    if not folder.exists():
        # A hub id is owner/name; whatever looks like a path is meant as one.
        if pretrained.count("/") == 1 and not pretrained.startswith((".", "/", "~")):
            return []
        return [f"{name} does not exist: give a diffusers folder or a hub id (owner/name)"]
    if not config_path(folder).is_file():
        return [f"{name} holds no UNet config.json: {LAYOUT}"]
    try:
        found, noise = read(config_path(folder)), read(scheduler_path(folder))
    except (OSError, ValueError) as error:
        return [f"{name} cannot be read ({error}): {LAYOUT}"]
    return misfits(pretrained, found, noise, unet, schedule)


def read(path: Path) -> dict[str, Any]:
    """Return a diffusers config, empty where there is none. Raises OSError or ValueError, naming the file."""
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON, {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings")
    return config


def misfits(
    name: str, found: dict[str, Any], noise: dict[str, Any], unet: dict[str, Any], schedule: dict[str, Any]
) -> list[str]:
    """Return how a checkpoint's UNet config and scheduler config differ from what the request needs."""
    told = []
    for key, option in (("in_channels", "data.channels"), ("sample_size", "data.size")):
        if found.get(key) != unet[key]:
            told.append(
                f"model.pretrained={name} has {key}={found.get(key)} and the data {unet[key]}: "
                f"set {option}={found.get(key)} or choose another checkpoint"
            )
    if found.get("out_channels") != found.get("in_channels"):
        told.append(
            f"model.pretrained={name} has in_channels={found.get('in_channels')} but out_channels="
            f"{found.get('out_channels')}: choose a checkpoint that predicts noise and nothing else"
        )
    other = [key for key, wanted in schedule.items() if key in noise and noise[key] != wanted]
    if other:
        theirs = ", ".join(f"{key}={noise[key]}" for key in other)
        ours = ", ".join(str(schedule[key]) for key in other)
        mend = " ".join(f"schedule.{key}={noise[key]}" for key in other)
        told.append(f"model.pretrained={name} was trained with {theirs}, not {ours}: set {mend}")
    return told


def config_path(folder: Path) -> Path:
    """Return where a diffusers folder keeps its UNet's config (google's older repositories: at the top)."""
    inner = folder / "unet" / "config.json"
    return inner if inner.exists() else folder / "config.json"


def scheduler_path(folder: Path) -> Path:
    """Return where a diffusers folder keeps its scheduler's config."""
    inner = folder / "scheduler" / "scheduler_config.json"
    return inner if inner.exists() else folder / "scheduler_config.json"
