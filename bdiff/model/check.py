"""What can be said of a checkpoint before torch is imported."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.common.places import is_file, no_file, odd_files
from bdiff.diffusion import schedulers
from bdiff.model import architecture
from bdiff.store.integrity import fault

#: in the name of a file that holds a part of the weights
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
LAYOUT = "a diffusers folder holds model_index.json, unet/ and scheduler/"
#: where a folder keeps its UNet, the first that is there: training scripts leave the averaged weights beside the
#: others, google's older repositories have it at the top
HOMES = ("unet_ema", "unet", ".")
#: the ending, and its variants (fp16, ...), of a UNet's weights
WEIGHTS = "diffusion_pytorch_model"
#: what diffusers takes where a config does not say
UNET: dict[str, Any] = {"in_channels": 3, "out_channels": 3, "block_out_channels": (224, 448, 672, 896)}
NOISE: dict[str, Any] = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
#: by key, the values beside null that an unconditional UNet has
PLAIN_UNET = {
    "_class_name": ("UNet2DModel",),
    "class_embed_type": (),
    "num_class_embeds": (),
    "time_embedding_type": ("positional", "learned"),
}


def whole(value: Any) -> bool:
    """Return whether a value of a config is a whole number from 1 up."""
    return type(value) is int and value >= 1


def size_like(value: Any) -> bool:
    """Return whether a value of a config is a sample_size: left open, a number or two."""
    return value is None or whole(value) or (isinstance(value, list) and len(value) == 2 and all(map(whole, value)))


def number(value: Any) -> bool:
    """Return whether a value of a config is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


#: what must be of one kind for the rest to be said of it
UNET_TYPES: dict[str, Callable[[Any], bool]] = {"in_channels": whole, "out_channels": whole, "sample_size": size_like}
NOISE_TYPES: dict[str, Callable[[Any], bool]] = {
    "num_train_timesteps": whole,
    "beta_start": number,
    "beta_end": number,
}


def shape_misfits(found: dict[str, Any], unet: dict[str, Any]) -> list[str]:
    """Return how the images that a UNet is for differ from the data."""
    theirs, told = UNET | found, []
    if (channels := theirs["in_channels"]) != unet["in_channels"]:
        mend = f"set data.channels={channels} or " if channels in (1, 3) else ""
        told.append(f"has in_channels={channels} and the data {unet['in_channels']}: {mend}choose another checkpoint")
    size = sample_size(theirs.get("sample_size"))
    if size is None:  # made for any size that its halvings leave whole
        halvings = len(theirs["block_out_channels"]) - 1
        if unet["sample_size"] % 2**halvings:
            told.append(f"halves images {halvings} times, so set data.size to a multiple of {2**halvings}")
    elif isinstance(size, list):
        told.append(f"is for images of {size[0]}x{size[1]} px, and they are square here: choose another checkpoint")
    elif size != unet["sample_size"]:
        told.append(
            f"has sample_size={size} and the data {unet['sample_size']}: "
            f"set data.size={size} or choose another checkpoint"
        )
    if theirs["out_channels"] != channels:
        told.append(
            f"has in_channels={channels} but out_channels="
            f"{theirs['out_channels']}: choose a checkpoint that predicts noise and nothing else"
        )
    return told


def sample_size(given: Any) -> Any:
    """Return a config's sample_size as a number where it is a square pair, else as it is."""
    return given[0] if isinstance(given, list) and len(given) == 2 and given[0] == given[1] else given


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
    if not is_file(config_path(folder)):
        return [f"{name} {unlike_a_folder(folder)}"]
    try:
        found, noise = read(config_path(folder)), read(scheduler_path(folder))
    except (OSError, ValueError) as error:
        return [f"{name} cannot be read ({error}): {LAYOUT}"]
    return misfits(pretrained, found, noise, unet, schedule) + weights_problems(pretrained, folder)


def unlike_a_folder(folder: Path) -> str:
    """Return why something that has no UNet's config.json is no checkpoint, with what may be meant instead."""
    if not folder.is_dir():
        return f"is a file: give the folder that it belongs to ({LAYOUT})"
    inside = sorted(path.name for path in folder.glob("*/") if is_file(config_path(path)))
    meant = f"give one of its folders, as in {folder / inside[-1]}" if inside else LAYOUT
    return f"holds no UNet config.json: {meant}"


def weights_problems(name: str, folder: Path) -> list[str]:
    """Return that a folder's weights are missing or cut off, from their headers alone, or that they cannot be read."""
    if odd := odd_files(folder):
        return [f"model.pretrained={name}: {odd[0]} {no_file(odd[0])}: take it away"]
    path, place = weights_path(folder), home(folder)
    if path is None:
        others = sorted(
            file.name for file in place.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".ckpt")
        )
        instead = f", only {', '.join(others[:3])}: rename the UNet's weights" if others else ": get it anew"
        return [f"model.pretrained={name} holds no {WEIGHTS}.safetensors in {place.name}{instead}"]
    if SHARD.search(path.name) and not (path.suffix == ".safetensors" and [*place.glob("*.safetensors.index*.json")]):
        told = f"{path.name} is one of several parts, which are read as safetensors with their index alone"
        return [f"model.pretrained={name}: {told}: save it again by save_pretrained"]
    why = fault(path)
    return [f"model.pretrained={name}: {path} is damaged or incomplete ({why}): get it anew"] if why else []


def read(path: Path) -> dict[str, Any]:
    """Return a diffusers config, empty where there is none. Raises OSError or ValueError, naming the file."""
    if not path.exists():
        return {}
    if why := no_file(path):
        raise ValueError(f"{path} {why}")
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
    wrong = damage("UNet's config.json", UNET_TYPES, found) + damage("scheduler's config", NOISE_TYPES, noise)
    if wrong:
        return [f"model.pretrained={name}: {line}" for line in wrong]
    return [
        f"model.pretrained={name} {line}"
        for line in (*shape_misfits(found, unet), *kind_misfits(found, noise), *noise_misfits(noise, schedule))
    ]


def damage(what: str, types: dict[str, Callable[[Any], bool]], config: dict[str, Any]) -> list[str]:
    """Return that values of a config are of no kind that diffusers writes."""
    wrong = [f"{key}={config[key]!r}" for key, fits in types.items() if key in config and not fits(config[key])]
    return [f"the {what} is damaged ({', '.join(wrong)}): get it anew"] if wrong else []


def kind_misfits(found: dict[str, Any], noise: dict[str, Any]) -> list[str]:
    """Return what of a checkpoint is not plain denoising, without labels, under a schedule of betas."""
    found = schedulers.unlike(found, PLAIN_UNET) | schedulers.unlike(noise, schedulers.CONVERTED)
    unlike = [f"{key}={value}" for key, value in found.items()]
    scheduler = noise.get("_class_name")
    if scheduler is not None and scheduler not in schedulers.KNOWN:
        unlike.append(f"the scheduler {scheduler}")
    if not unlike:
        return []
    wanted = "an unconditional UNet2DModel under a schedule of betas"
    return [f"has {', '.join(unlike)}, which is not supported: choose {wanted}"]


def noise_misfits(noise: dict[str, Any], schedule: dict[str, Any]) -> list[str]:
    """Return how the schedule of a scheduler config, if there is one, differs from the request's."""
    known = NOISE | noise
    other = [key for key, wanted in schedule.items() if noise and key in known and known[key] != wanted]
    if not other:
        return []
    theirs = ", ".join(f"{key}={known[key]}" for key in other)
    ours = ", ".join(str(schedule[key]) for key in other)
    mend = " ".join(f"schedule.{key}={known[key]}" for key in other)
    return [f"was trained with {theirs}, not {ours}: set {mend}"]


def notes(name: str, folder: Path) -> list[str]:
    """Return what is taken for granted of a checkpoint folder, or chosen in it, one line each."""
    told = []
    if home(folder).name == "unet_ema" and (folder / "unet").is_dir():
        told.append("the averaged weights in unet_ema/ are taken, not those in unet/")
    if not scheduler_path(folder).is_file():
        told.append(f"it has no {scheduler_path(folder).name}, so it is taken to be trained with the config's schedule")
    path = weights_path(folder)
    if path is not None and variant(path):
        told.append(f"there is only {path.name}, which is taken as float32")
    return [f"model.pretrained={name}: {line}" for line in told]


def home(folder: Path) -> Path:
    """Return the folder of a diffusers folder's UNet."""
    found = (folder / name for name in HOMES)
    return next((place for place in found if (place / "config.json").exists()), folder)


def config_path(folder: Path) -> Path:
    """Return where a diffusers folder keeps its UNet's config."""
    return home(folder) / "config.json"


def weights_path(folder: Path) -> Path | None:
    """Return the file of a diffusers folder's UNet weights: of several, safetensors first, then without a variant."""
    found = [path for end in ("safetensors", "bin") for path in sorted(home(folder).glob(f"{WEIGHTS}*.{end}"))]
    return min(found, key=lambda path: (bool(variant(path)), path.suffix != ".safetensors"), default=None)


def variant(path: Path) -> str | None:
    """Return fp16 for diffusion_pytorch_model.fp16.safetensors, None where the name has no such part."""
    middle = path.name.removeprefix(WEIGHTS).partition("-0")[0].removesuffix(path.suffix)
    return middle.strip(".") or None


def scheduler_path(folder: Path) -> Path:
    """Return where a diffusers folder keeps its scheduler's config."""
    inner = folder / "scheduler" / "scheduler_config.json"
    return inner if inner.exists() else folder / "scheduler_config.json"


def model_problems(config: DictConfig) -> list[str]:
    """Return how the model does not fit the data, or its checkpoint the model."""
    unet: dict[str, Any] = OmegaConf.to_container(config.model.unet, resolve=True)  # type: ignore[assignment]
    schedule: dict[str, Any] = OmegaConf.to_container(config.schedule, resolve=True)  # type: ignore[assignment]
    schedule.pop("_target_")
    if told := architecture.problems(unet):
        return told
    told = problems(config.model.pretrained, unet, schedule)
    size, halvings = config.data.size, len(unet["block_out_channels"]) - 1
    if size % 2**halvings:
        told.append(f"data.size={size} is no multiple of {2**halvings}, which the model's {halvings} halvings need")
    return told


CHECKS = [(("data.size", "data.channels", "model.", "schedule."), model_problems)]
