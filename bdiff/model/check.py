"""Checks of a checkpoint before torch is imported."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bdiff.common.places import is_file, no_file, odd_files
from bdiff.config.keys import plain
from bdiff.config.rules import is_count, is_number
from bdiff.diffusion import schedulers
from bdiff.model import architecture
from bdiff.store.integrity import fault

#: in the name of a file that holds one shard of the weights
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
LAYOUT = "a diffusers folder holds model_index.json, unet/ and scheduler/"
#: where a folder keeps its UNet, in order of preference: a pipeline loads unet/, or what is at the top of google's
#: older repositories; checkpoints of training scripts, which are no pipelines, have averaged weights next to the others
PIPELINE = "model_index.json"
AUTOENCODERS = ("vae", "vqvae")  # parts of a pipeline of latents
HOMES = {True: ("unet", ".", "unet_ema"), False: ("unet_ema", "unet", ".")}
#: the ending, and its variants (fp16, ...), of a UNet's weights
WEIGHTS = "diffusion_pytorch_model"
#: diffusers' defaults
UNET: dict[str, Any] = {"in_channels": 3, "out_channels": 3, "block_out_channels": (224, 448, 672, 896)}
NOISE: dict[str, Any] = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
#: the settings of a UNet that say what blocks it has
BLOCKS = ("block_out_channels", "layers_per_block", "down_block_types", "up_block_types", "attention_head_dim")
#: the values, besides null, of an unconditional UNet, by key
PLAIN_UNET = {
    "_class_name": ("UNet2DModel",),
    "class_embed_type": (),
    "num_class_embeds": (),
    "time_embedding_type": ("positional", "learned"),
}


def is_size(value: Any) -> bool:
    """Return whether a value of a config is a sample_size: null, a number or two."""
    return (
        value is None or is_count(value) or (isinstance(value, list) and len(value) == 2 and all(map(is_count, value)))
    )


#: the types that the other checks rely on
UNET_TYPES: dict[str, Callable[[Any], bool]] = {
    "in_channels": is_count,
    "out_channels": is_count,
    "sample_size": is_size,
}
NOISE_TYPES: dict[str, Callable[[Any], bool]] = {
    "num_train_timesteps": is_count,
    "beta_start": is_number,
    "beta_end": is_number,
}


def shape_mismatches(found: dict[str, Any], unet: dict[str, Any]) -> list[str]:
    """Return how the image shape of a UNet differs from the data's."""
    theirs, lines = UNET | found, []
    if (channels := theirs["in_channels"]) != unet["in_channels"]:
        hint = f"set data.channels={channels} or " if channels in (1, 3) else ""
        lines.append(f"has in_channels={channels} and the data {unet['in_channels']}: {hint}choose another checkpoint")
    size = sample_size(theirs.get("sample_size"))
    if size is None:  # for any size that can be halved often enough
        halvings = len(theirs["block_out_channels"]) - 1
        if unet["sample_size"] % 2**halvings:
            lines.append(f"halves images {halvings} times, so set data.size to a multiple of {2**halvings}")
    elif not isinstance(size, list) and size != unet["sample_size"]:
        lines.append(
            f"has sample_size={size} and the data {unet['sample_size']}: "
            f"set data.size={size} or choose another checkpoint"
        )
    return lines + form_mismatches(theirs)


def form_mismatches(found: dict[str, Any]) -> list[str]:
    """Return why a UNet does not denoise square images by one prediction, whatever their size."""
    theirs, size, lines = UNET | found, sample_size(found.get("sample_size")), []
    if isinstance(size, list):
        lines.append(f"is for images of {size[0]}x{size[1]} px, but bdiff's are square: choose another checkpoint")
    if theirs["out_channels"] != (channels := theirs["in_channels"]):
        lines.append(
            f"has in_channels={channels} but out_channels="
            f"{theirs['out_channels']}: choose a checkpoint that predicts only noise"
        )
    return lines


def latent(folder: Path) -> list[str]:
    """Return the problem that the UNet of a diffusers folder denoises latents, of which a pipeline's index tells."""
    try:
        index = read(folder / PIPELINE)
    except (OSError, ValueError) as error:
        return [f"cannot be read ({error}): download it again"]
    coders = [name for name in AUTOENCODERS if index.get(name)]
    return [f"is a latent model, with a {coders[0]}: choose a model of pixels"] if coders else []


def sample_size(given: Any) -> Any:
    """Return a config's sample_size as a number if it is a pair of equal ones, else unchanged."""
    return given[0] if isinstance(given, list) and len(given) == 2 and given[0] == given[1] else given


def problems(pretrained: str | None, unet: dict[str, Any], schedule: dict[str, Any]) -> list[str]:
    """Return why `pretrained`, if it is a local folder, does not fit the request's model.

    A hub id such as google/ddpm-cifar10-32 is checked after the download, by `checkpoint.load`.
    """
    if pretrained is None:
        return []
    folder = Path(pretrained).expanduser()
    name = f"model.pretrained={pretrained}"
    if not folder.exists():
        # A hub id is owner/name; anything that looks like a path is treated as one.
        if pretrained.count("/") == 1 and not pretrained.startswith((".", "/", "~")):
            return []
        return [f"{name} does not exist: give a diffusers folder or a hub id (owner/name)"]
    if not is_file(config_path(folder)):
        return [f"{name} {unlike_a_folder(folder)}"]
    try:
        found, noise = read(config_path(folder)), read(scheduler_path(folder))
    except (OSError, ValueError) as error:
        return [f"{name} cannot be read ({error}): {LAYOUT}"]
    return mismatches(pretrained, found, noise, unet, schedule) + weights_problems(pretrained, folder)


def unlike_a_folder(folder: Path) -> str:
    """Return why a path without a UNet's config.json is not a checkpoint, with a suggestion."""
    if not folder.is_dir():
        return f"is a file: give the folder that contains it ({LAYOUT})"
    inside = sorted(path.name for path in folder.glob("*/") if is_file(config_path(path)))
    meant = f"give one of its folders, as in {folder / inside[-1]}" if inside else LAYOUT
    return f"holds no UNet config.json: {meant}"


def weights_problems(name: str, folder: Path) -> list[str]:
    """Return the problem that a folder's weights are for latents, missing, truncated (by header) or unreadable."""
    if lines := latent(folder):
        return [f"model.pretrained={name} {line}" for line in lines]
    if odd := odd_files(folder):
        return [f"model.pretrained={name}: {odd[0]} {no_file(odd[0])}: remove it"]
    path, place = weights_path(folder), home(folder)
    if path is None:
        others = sorted(
            file.name for file in place.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".ckpt")
        )
        instead = f", only {', '.join(others[:3])}: rename the UNet's weights" if others else ": download it again"
        return [f"model.pretrained={name} holds no {WEIGHTS}.safetensors in {place.name}{instead}"]
    if SHARD.search(path.name) and not (path.suffix == ".safetensors" and [*place.glob("*.safetensors.index*.json")]):
        shard = f"{path.name} is one of several shards, which are read only as safetensors with their index"
        return [f"model.pretrained={name}: {shard}: save it again with save_pretrained"]
    why = fault(path)
    return [f"model.pretrained={name}: {path} is damaged or incomplete ({why}): download it again"] if why else []


def read(path: Path) -> dict[str, Any]:
    """Return a diffusers config, empty if there is none. Raises OSError or ValueError, naming the file."""
    if not path.exists():
        return {}
    if why := no_file(path):
        raise ValueError(f"{path} {why}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON, {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} has no settings")
    return config


def mismatches(
    name: str, found: dict[str, Any], noise: dict[str, Any], unet: dict[str, Any], schedule: dict[str, Any]
) -> list[str]:
    """Return how a checkpoint's UNet config and scheduler config differ from the request's."""
    wrong = damage("UNet's config.json", UNET_TYPES, found) + damage("scheduler's config", NOISE_TYPES, noise)
    if wrong:
        return [f"model.pretrained={name}: {line}" for line in wrong]
    return [
        f"model.pretrained={name} {line}"
        for line in (*shape_mismatches(found, unet), *kind_mismatches(found, noise), *noise_mismatches(noise, schedule))
    ]


def damage(what: str, types: dict[str, Callable[[Any], bool]], config: dict[str, Any]) -> list[str]:
    """Return the problem that values of a config have types that diffusers never writes."""
    wrong = [f"{key}={config[key]!r}" for key, fits in types.items() if key in config and not fits(config[key])]
    return [f"the {what} is damaged ({', '.join(wrong)}): download it again"] if wrong else []


def kind_mismatches(found: dict[str, Any], noise: dict[str, Any], classes: bool = False) -> list[str]:
    """Return why a checkpoint is not an unconditional (or with `classes` class-conditional) denoiser under betas."""
    usual = PLAIN_UNET | ({"num_class_embeds": (number_of_classes(found),)} if classes else {})
    found = schedulers.unlike(found, usual) | schedulers.unlike(noise, schedulers.CONVERTED)
    unlike = [f"{key}={value}" for key, value in found.items()]
    scheduler = noise.get("_class_name")
    if scheduler is not None and scheduler not in schedulers.KNOWN:
        unlike.append(f"the scheduler {scheduler}")
    if not unlike:
        return []
    supported = "an unconditional UNet2DModel under a schedule of betas"
    return [f"has {', '.join(unlike)}, which is not supported: choose {supported}"]


def number_of_classes(found: dict[str, Any]) -> int | None:
    """Return how many classes a UNet is conditioned on by an embedding of each; None if it is not."""
    count = found.get("num_class_embeds")
    return count if is_count(count) and found.get("class_embed_type") is None else None


def noise_mismatches(noise: dict[str, Any], schedule: dict[str, Any]) -> list[str]:
    """Return how the schedule of a scheduler config, if there is one, differs from the request's."""
    known = NOISE | noise
    other = [key for key, expected in schedule.items() if noise and key in known and known[key] != expected]
    if not other:
        return []
    theirs = ", ".join(f"{key}={known[key]}" for key in other)
    ours = ", ".join(str(schedule[key]) for key in other)
    settings = " ".join(f"schedule.{key}={known[key]}" for key in other)
    return [f"was trained with {theirs}, not {ours}: set {settings}"]


def notes(name: str, folder: Path, unet: dict[str, Any]) -> list[str]:
    """Return what is assumed about a checkpoint folder, chosen in it, or other than the request's, one line each."""
    found, lines = read(config_path(folder)), []
    if other := [key for key in BLOCKS if key in found and key in unet and found[key] != unet[key]]:
        theirs = ", ".join(f"{key}={found[key]}" for key in other)
        lines.append(f"its network is trained further, with {theirs}, not what model.unet says")
    if (folder / "unet").is_dir() and (folder / "unet_ema").is_dir():
        averaged = home(folder).name == "unet_ema"
        lines.append(
            "the averaged weights in unet_ema/ are used, not those in unet/"
            if averaged
            else f"the weights in unet/ are used, as {PIPELINE} says, not the averaged ones in unet_ema/"
        )
    if not scheduler_path(folder).is_file():
        lines.append(f"it has no {scheduler_path(folder).name}, so the config's schedule is assumed")
    path = weights_path(folder)
    if path is not None and variant(path):
        lines.append(f"there is only {path.name}, which is converted to float32")
    return [f"model.pretrained={name}: {line}" for line in lines]


def home(folder: Path) -> Path:
    """Return the folder of a diffusers folder's UNet."""
    found = (folder / name for name in HOMES[(folder / PIPELINE).exists()])
    return next((place for place in found if (place / "config.json").exists()), folder)


def config_path(folder: Path) -> Path:
    """Return the path of a diffusers folder's UNet config."""
    return home(folder) / "config.json"


def weights_path(folder: Path) -> Path | None:
    """Return the file of a diffusers folder's UNet weights, preferring safetensors, then files without a variant."""
    found = [path for end in ("safetensors", "bin") for path in sorted(home(folder).glob(f"{WEIGHTS}*.{end}"))]
    return min(found, key=lambda path: (bool(variant(path)), path.suffix != ".safetensors"), default=None)


def weights_files(folder: Path) -> list[Path]:
    """Return the files that a diffusers folder's UNet weights are read from: one, or its shards."""
    path = weights_path(folder)
    if path is None or not (shard := SHARD.search(path.name)):
        return [path] if path else []
    return sorted(path.parent.glob(f"{path.name[: shard.start()]}-*{path.suffix}"))


def variant(path: Path) -> str | None:
    """Return fp16 for diffusion_pytorch_model.fp16.safetensors, None for a name without a variant."""
    middle = path.name.removeprefix(WEIGHTS).partition("-0")[0].removesuffix(path.suffix)
    return middle.strip(".") or None


def scheduler_path(folder: Path) -> Path:
    """Return the path of a diffusers folder's scheduler config."""
    inner = folder / "scheduler" / "scheduler_config.json"
    return inner if inner.exists() else folder / "scheduler_config.json"


def model_problems(config: DictConfig) -> list[str]:
    """Return mismatches between the model and the data, and between the checkpoint and the model."""
    unet, schedule = plain(config.model.unet), plain(config.schedule)
    schedule.pop("_target_")
    if lines := architecture.problems(unet):
        return lines
    lines = problems(config.model.pretrained, unet, schedule)
    size, halvings = config.data.size, len(unet["block_out_channels"]) - 1
    if size % 2**halvings:
        lines.append(f"data.size={size} is no multiple of {2**halvings}, which the model's {halvings} halvings need")
    return lines


CHECKS = [(("data.size", "data.channels", "model.", "schedule."), model_problems)]
