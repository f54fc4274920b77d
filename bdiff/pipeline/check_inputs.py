"""The evaluation of an input check: how well its scores tell noise with the trigger from clean noise."""

from typing import cast

from safetensors.torch import load_file, save_file

from bdiff.common.seeds import generator, seed_of
from bdiff.defense.base import InputCheck
from bdiff.metric.roc import auroc, rate_above, threshold_at
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.prepare import plain
from bdiff.pipeline.result import StageResult
from bdiff.pipeline.suspect import own, suspect_of
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage

RATES = (0.01, 0.05)  # false-positive rates at which true-positive ones are told, beside the one asked for


def checked(run: Experiment, model: Stage, check: InputCheck) -> StageResult:
    """Return how many clean and triggered noises the check flags, at a threshold from other clean ones, and its AUROC.

    An attack without a trigger in a sample's starting noise has none to find: only clean noise is scored then.
    """
    config = run.config.defense
    kept = load_file(scored(run, model, check).folder / "scores.safetensors")
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
        "backdoored": run.attack.poison_rate > 0,
        "precision": config.precision,
    }
    return StageResult(metrics, {"inputs": protocol})


def scored(run: Experiment, model: Stage, check: InputCheck) -> Stage:
    """Keep the scores of noise that sets the threshold, of other clean noise, and of that with the trigger."""
    config = run.config.defense
    stage = run.stages.stage(
        "inputs",
        model=model.key,
        schedule=plain(run.config.schedule),
        check=own(config),
        precision=config.precision,
        count=config.count,
        start=[run.attack.start_key, run.pictures["trigger"]] if run.attack.starts_samples else None,
        seed=run.config.seed,
    )
    with run.stages.missing(stage, "inputs") as missing:
        if missing:
            suspect, seed = suspect_of(run, model, config.precision), run.config.seed
            known = suspect.noise(config.count, generator(seed, "inputs", "known"))
            clean = suspect.noise(config.count, generator(seed, "inputs", "clean"))
            kinds = {"known": known, "clean": clean}
            if run.attack.starts_samples:
                kinds["triggered"] = run.attack.prior(clean)
            found = {kind: check.score(x, suspect, seed_of(seed, "inputs", kind)) for kind, x in kinds.items()}
            with artifacts.atomic(stage.folder / "scores.safetensors") as scratch:
                save_file({kind: scores.detach().double().cpu() for kind, scores in found.items()}, scratch)
            run.stages.end(stage, evaluations=suspect.evaluations)
    return stage
