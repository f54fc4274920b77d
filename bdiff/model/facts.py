"""What a checkpoint from elsewhere says of itself: what it denoises, and under which schedule. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdiff.common.errors import RequestError
from bdiff.diffusion.schedulers import CONVERTED
from bdiff.model.check import (
    NOISE,
    NOISE_TYPES,
    UNET,
    UNET_TYPES,
    WEIGHTS,
    config_path,
    damage,
    form_mismatches,
    kind_mismatches,
    latent,
    number_of_classes,
    read,
    sample_size,
    scheduler_path,
    unlike_a_folder,
    weights_files,
)

#: what a network may predict, in diffusers' terms
PREDICTIONS = CONVERTED["prediction_type"]
#: files beside the weights that hold code, or objects that could run some: they are never read
CODE = (".py", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".so")


@dataclass(frozen=True)
class Facts:
    """A checkpoint by its configs."""

    name: str  # as it was asked for
    folder: Path
    shape: tuple[int, int, int]  # (C,H,W) of its images
    schedule: dict[str, Any]  # as in conf/schedule
    prediction: str  # in diffusers' terms
    unet: dict[str, Any]  # its network's config
    label: int | None = None  # the class that a class-conditional one is looked at for
    remote: bool = False  # whether it is on the hub, of which only configs and weights were fetched

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of its network's constructor, for its size of images."""
        own = {name: value for name, value in self.unet.items() if not name.startswith("_")}
        return own | {"sample_size": self.shape[1], "num_class_embeds": None}

    @property
    def classes(self) -> int | None:
        """How many classes it is conditioned on; None if it is unconditional."""
        return number_of_classes(self.unet)

    @property
    def unread(self) -> list[str]:
        """The files in its folder that hold code, or objects that could run some, but for the weights that are read."""
        return [str(path.relative_to(self.folder)) for path in self.others() if path.suffix in CODE]

    @property
    def unjudged(self) -> list[str]:
        """The files in its folder with other weights of a network: averaged ones, or another variant."""
        return [str(path.relative_to(self.folder)) for path in self.others() if path.name.startswith(WEIGHTS)
                and path.suffix == ".safetensors"]  # fmt: skip

    def others(self) -> list[Path]:
        """Return what is in its folder, but for the weights that are read."""
        return sorted({*self.folder.rglob("*")} - {*weights_files(self.folder)})


def facts(
    name: str,
    folder: Path,
    shape: tuple[int, int, int] | int | None = None,
    schedule: Mapping[str, Any] | None = None,
    label: int | None = None,
    prediction: str | None = None,
) -> Facts:
    """Return what the checkpoint `name` in a folder says of itself.

    `shape` (or size), `schedule` and `prediction` (epsilon, sample or v_prediction) say what it does not.

    `label` is the class that a class-conditional one is looked at for, 0 if None. Raises RequestError if it is none, is
    damaged, has no such class, or is not a UNet2DModel under a schedule of betas.
    """
    if not config_path(folder).is_file():
        raise RequestError(f"{name} {unlike_a_folder(folder)}")
    try:
        unet, noise = UNET | read(config_path(folder)), read(scheduler_path(folder))
    except (OSError, ValueError) as error:
        raise RequestError(f"{name} cannot be read ({error})") from error
    problems = damage("UNet's config.json", UNET_TYPES, unet) + damage("scheduler's config", NOISE_TYPES, noise)
    if not problems:
        problems = latent(folder) + form_mismatches(unet) + kind_mismatches(unet, noise, True)
    if problems := problems or class_problems(unet, label):
        raise RequestError(*(f"{name}: {line}" for line in problems))
    if prediction not in (None, *PREDICTIONS):
        raise RequestError(f"prediction={prediction} is not known (choose from {', '.join(PREDICTIONS)})")
    if not noise and (problems := unknown(folder, schedule, prediction)):
        raise RequestError(*(f"{name} {line}" for line in problems))
    size = shape if isinstance(shape, int) else sample_size(unet.get("sample_size"))
    if shape is None or isinstance(shape, int):
        if not isinstance(size, int):
            raise RequestError(
                f"{name} does not have the size of its images: give it, by --size PX or, in Python, shape=(C, H, W)"
            )
        shape = (unet["in_channels"], size, size)
    known = NOISE | noise | dict(schedule or {})
    prediction = prediction or str(noise.get("prediction_type") or "epsilon")
    label = (label or 0) if number_of_classes(unet) else None
    return Facts(name, folder, shape, {key: known[key] for key in NOISE}, prediction, unet, label)


def unknown(folder: Path, schedule: Mapping[str, Any] | None, prediction: str | None) -> list[str]:
    """Return what is not known of a checkpoint without a scheduler's config, and how to give it."""
    lacks, above = f"has no {scheduler_path(folder).name}", folder.resolve().parent
    if (above / "scheduler").is_dir():
        return [f"{lacks}, which is beside it: give the folder that holds both, {above}"]
    lines = []
    if schedule is None:
        give = f"give it, as in --schedule linear or, in Python, schedule={json.dumps(NOISE)}"
        lines.append(f"{lacks}, so its noise schedule is unknown: {give}")
    if prediction is None:
        give = f"give it, by --prediction or, in Python, prediction= ({', '.join(PREDICTIONS)})"
        lines.append(f"{lacks}, so what it predicts is unknown: {give}")
    return lines


def class_problems(unet: dict[str, Any], label: int | None) -> list[str]:
    """Return the problem that a UNet does not have the class `label`."""
    count = number_of_classes(unet)
    if label is None or 0 <= label < (count or 0):
        return []
    has = f"has the classes 0 to {count - 1}, and no" if count else "is unconditional: it has no class"
    return [f"{has} {label}"]
