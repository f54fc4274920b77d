"""What there is to see of a run, as data: the report draws it."""

from collections.abc import Iterable

import torch
from safetensors.torch import load_file
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.data.base import Images, to_float, to_uint8
from bdiff.data.joined import joined
from bdiff.diffusion.history import read_history
from bdiff.diffusion.sampling import shards
from bdiff.pipeline.prepare import Pictures
from bdiff.pipeline.result import Beside, Figure, LossCurve, Overview, Picture, Sheet, StageResult, Trajectory
from bdiff.store.artifacts import Stage

#: the numbers in the title of the overview, where there are any
TITLE = {
    "suspect/asr": "   ASR {:.3f}",
    "suspect/mse": "   MSE {:.3g}",
    "suspect/class_asr": "   class ASR {:.3f}",
}


def attack_pictures(attack: Attack, pictures: Pictures, images: Images) -> dict[str, Tensor]:
    """Return what there is to see of an attack, uint8 (C,H,W) by name: its pictures, and an image with the trigger."""
    example = to_float(images.take(torch.zeros(1, dtype=torch.long))).cpu()
    return {
        "trigger": to_uint8(pictures.trigger.pattern),
        **({"target": target_picture(attack, pictures, images)} if attack.starts_samples else {}),
        "stamped example": to_uint8(attack.apply(example))[0],
    }


def target_picture(attack: Attack, pictures: Pictures, images: Images) -> Tensor:
    """Return the target, uint8 (C,H,W): where it is a class, the first image of that."""
    if attack.label is None:
        return to_uint8(pictures.target)
    everything = joined(images, attack.others)
    return everything.take((everything.labels == attack.label).nonzero()[0])[0].cpu()


def model_figures(
    name: str,  # of the run
    model: Stage,
    samples: Stage,
    kinds: Iterable[str],  # of the samples
    singles: dict[str, Tensor],  # the attack's pictures
    metrics: dict[str, float],
) -> dict[str, Figure]:
    """Return what there is to see of a model and its samples, by name."""
    first = {kind: next(shards(samples.folder / "shards", kind)) for kind in kinds}
    title, sheets = name, {"samples": first["clean"]}
    if "triggered" in first:
        title += "".join(words.format(metrics[metric]) for metric, words in TITLE.items() if metric in metrics)
        sheets["samples with the trigger in the same noise"] = first["triggered"]
    states = load_file(samples.folder / "trajectory.safetensors")
    rows = {kind: to_uint8(states[kind][:, 0]) for kind in reversed(first)}
    history = read_history(model.folder / "history.jsonl")
    return {
        "overview": Overview(title, singles, sheets),
        **{name: Picture(image) for name, image in singles.items()},
        **{kind: Sheet(images) for kind, images in first.items()},
        "trajectory": Trajectory(states["t"].tolist(), rows),
        **({"loss": LossCurve(name, history)} if history else {}),
    }


def result_figures(result: StageResult, trigger: Tensor | None) -> dict[str, Figure]:
    """Return what there is to see of a defense or an amplification: samples, and triggers beside the true one.

    That is (C,H,W), None where nothing was attacked.
    """
    found: dict[str, Figure] = {}
    if result.triggers:
        singles = ({} if trigger is None else {"true trigger": trigger}) | result.triggers
        found["triggers"] = Beside({name: to_uint8(one) for name, one in singles.items()})
    return found | {name: Sheet(images) for name, images in result.samples.items()} | result.figures
