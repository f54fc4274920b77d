"""The evaluation of an input check: how well its scores tell noise with the trigger from clean noise."""

from typing import Any, cast

from omegaconf import DictConfig
from safetensors.torch import load_file

from bdiff.attack.base import Attack
from bdiff.common.seeds import generator, seed_of
from bdiff.defense.base import InputCheck
from bdiff.metric.roc import auroc, rate_above, threshold_at
from bdiff.pipeline.prepare import Pictures
from bdiff.pipeline.result import StageResult
from bdiff.pipeline.stages import Stages, keep
from bdiff.pipeline.suspect import Diffusion, own, suspect_of
from bdiff.store.artifacts import Stage

RATES = (0.01, 0.05)  # false-positive rates at which true-positive ones are given, beside the one asked for


def checked(
    stages: Stages,
    model: Stage,
    check: InputCheck,
    config: DictConfig,  # conf/defense
    diffusion: Diffusion,
    attack: Attack,
    pictures: Pictures,
    seed: int,
) -> StageResult:
    """Return how many clean and triggered noises the check flags, at a threshold from other clean ones, and its AUROC.

    An attack without a trigger in a sample's starting noise has none to find: only clean noise is scored then.
    """
    scored_by = score(stages, model, check, config, diffusion, attack, pictures, seed)
    if stages.planning:
        return StageResult()
    kept = load_file(scored_by.folder / "scores.safetensors")
    scores = {kind: values.tolist() for kind, values in kept.items()}
    known, clean = scores["known"], scores["clean"]
    threshold = threshold_at(known, config.false_positive_rate)
    metrics = {"inputs/fpr": rate_above(clean, threshold)}
    if "triggered" in scores:
        metrics["inputs/tpr"] = rate_above(scores["triggered"], threshold)
        metrics["inputs/auroc"] = cast(float, auroc(clean, scores["triggered"]))  # count is 2 at least
        for rate in RATES:
            metrics[f"inputs/tpr@{rate:g}"] = rate_above(scores["triggered"], threshold_at(known, rate))
    protocol = {
        "threshold": threshold,
        "false_positive_rate": config.false_positive_rate,
        "count": config.count,
        "backdoored": attack.poison_rate > 0,
        "precision": config.precision,
    }
    return StageResult(metrics, {"inputs": protocol})


def score(
    stages: Stages,
    model: Stage,
    check: InputCheck,
    config: DictConfig,
    diffusion: Diffusion,
    attack: Attack,
    pictures: Pictures,
    seed: int,
) -> Stage:
    """Keep the scores of noise that sets the threshold, of other clean noise, and of that with the trigger."""
    stage = stages.stage(
        "inputs",
        model=model.key,
        schedule=diffusion.key,
        check=own(config),
        precision=config.precision,
        count=config.count,
        start=[attack.start_key, pictures.keys["trigger"]] if attack.starts_samples else None,
        seed=seed,
    )

    def build() -> dict[str, Any]:
        suspect = suspect_of(model, diffusion, config.precision)
        known = suspect.noise(config.count, generator(seed, "inputs", "known"))
        clean = suspect.noise(config.count, generator(seed, "inputs", "clean"))
        kinds = {"known": known, "clean": clean}
        if attack.starts_samples:
            kinds["triggered"] = attack.prior(clean)
        found = {kind: check.score(x, suspect, seed_of(seed, "inputs", kind)) for kind, x in kinds.items()}
        scores = {kind: values.detach().double().cpu() for kind, values in found.items()}
        keep(stage.folder / "scores.safetensors", scores)
        return {"evaluations": suspect.evaluations}

    stages.once(stage, build)
    return stage
