"""What there is to see of a run, as data: the report draws it."""

import torch
from safetensors.torch import load_file

from bdiff.data.base import to_float, to_uint8
from bdiff.diffusion.history import read_history
from bdiff.diffusion.sampling import shards
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.result import Beside, Figure, LossCurve, Overview, Picture, Sheet, StageResult, Trajectory
from bdiff.pipeline.sample import kinds
from bdiff.store.artifacts import Stage


def figures_of(run: Experiment, model: Stage, samples: Stage, metrics: dict[str, float]) -> dict[str, Figure]:
    """Return what there is to see of a model and its samples, by name."""
    first = {kind: next(shards(samples.folder / "shards", kind)) for kind in kinds(run)}
    example = to_float(run.images.take(torch.zeros(1, dtype=torch.long))).cpu()
    singles = {
        "trigger": to_uint8(run.trigger.pattern),
        **({"target": to_uint8(run.target)} if run.attack.starts_samples else {}),
        "stamped example": to_uint8(run.attack.apply(example))[0],
    }
    title, sheets = run.config.name, {"samples": first["clean"]}
    if "triggered" in first:
        title += f"   ASR {metrics['suspect/asr']:.3f}   MSE {metrics['suspect/mse']:.3g}"
        sheets["samples with the trigger in the same noise"] = first["triggered"]
    states = load_file(samples.folder / "trajectory.safetensors")
    rows = {name: to_uint8(states[name][:, 0]) for name in reversed(first)}
    history = read_history(model.folder / "history.jsonl")
    return {
        "overview": Overview(title, singles, sheets),
        **{name: Picture(image) for name, image in singles.items()},
        **{name: Sheet(images) for name, images in first.items()},
        "trajectory": Trajectory(states["t"].tolist(), rows),
        **({"loss": LossCurve(run.config.name, history)} if history else {}),
    }


def more_figures(run: Experiment, answer: StageResult) -> dict[str, Figure]:
    """Return what there is to see of a defense or an amplification: triggers beside the true one, and samples."""
    found: dict[str, Figure] = {}
    if answer.triggers:
        true = {"true trigger": run.trigger.pattern} if run.attack.poison_rate > 0 else {}
        singles = true | answer.triggers
        found["triggers"] = Beside({name: to_uint8(trigger) for name, trigger in singles.items()})
    return found | {name: Sheet(images) for name, images in answer.samples.items()} | answer.figures
