"""The evaluation of an input check: how well its scores tell noise with the trigger from clean noise, and its cost."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.common.device import synchronize
from bdiff.common.progress import Meter
from bdiff.common.seeds import generator, seed_of
from bdiff.defense.base import Facts, InputCheck
from bdiff.defense.check import LEAST, needed
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.engine import steady
from bdiff.diffusion.mode import Work
from bdiff.diffusion.noise import Noise
from bdiff.metric.roc import auroc, passing, rate_above, threshold_at
from bdiff.pipeline.detect import inversion, invert
from bdiff.pipeline.prepare import Pictures
from bdiff.pipeline.result import Figure, ScoreHistogram, StageResult
from bdiff.pipeline.stages import Stages, keep
from bdiff.pipeline.suspect import Diffusion, method, own, suspect_of
from bdiff.store.artifacts import Stage

RATES = (0.01, 0.05)  # false-positive rates at which true-positive ones are given, beside the one asked for
NOTHING: dict[str, float] = {"evaluations": 0, "seconds": 0.0}  # the cost of what is not done


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
    """Return how many clean and triggered noises the check flags, at a threshold from other clean ones, and its cost.

    An attack without a trigger in a sample's starting noise has none to find: only clean noise is scored then.
    """
    scored_by, costs = score(stages, model, check, config, diffusion, attack, pictures, seed)
    if stages.planning:
        return StageResult()
    kept = load_file(scored_by.folder / "scores.safetensors")
    scores = {kind: values.tolist() for kind, values in kept.items()}
    threshold = threshold_at(scores["known"], config.false_positive_rate)
    rates, absent = rates_of(scores, threshold)
    inputs = sum(map(len, scores.values()))
    cost = {f"{name}_per_input": value / inputs for name, value in costs["scored"].items()}
    cost |= {f"{name}_per_model": value + costs["inverted"][name] for name, value in costs["prepared"].items()}
    protocol = {
        "threshold": threshold,
        "false_positive_rate": config.false_positive_rate,
        "count": config.count,
        "backdoored": attack.poison_rate > 0,
        "precision": config.precision,
        **({"inversion": costs["inverted"]} if check.needs_trigger else {}),
        **({"absent": absent} if absent else {}),
    }
    shown: dict[str, list[float]] = {kind: values for kind, values in scores.items() if kind != "known"}
    title = f"{type(check).__name__}: scores of starting noises"
    figures: dict[str, Figure] = {"scores": ScoreHistogram(title, shown, threshold)}
    metrics = {f"inputs/{name}": value for name, value in (rates | cost).items()}
    return StageResult(metrics, {"inputs": protocol}, figures=figures)


def rates_of(scores: Mapping[str, Sequence[float]], threshold: float) -> tuple[dict[str, float], dict[str, str]]:
    """Return rates and AUROC by name, and why others are absent, from scores of known, clean and triggered noises."""
    known, clean = scores["known"], scores["clean"]
    found, absent = {"fpr": rate_above(clean, threshold)}, {}
    if "triggered" not in scores:
        return found, {"tpr": "no trigger is in a starting noise under this attack"}
    triggered = scores["triggered"]
    found["tpr"] = rate_above(triggered, threshold)
    found["auroc"] = cast(float, auroc(clean, triggered))  # there are some of each
    for rate in RATES:
        if passing(len(known), rate) >= LEAST:
            found[f"tpr@{rate:g}"] = rate_above(triggered, threshold_at(known, rate))
        else:
            absent[f"tpr@{rate:g}"] = f"needs {needed(rate)} clean noises to set its threshold: set defense.count"
    return found, absent


def score(
    stages: Stages,
    model: Stage,
    check: InputCheck,
    config: DictConfig,
    diffusion: Diffusion,
    attack: Attack,
    pictures: Pictures,
    seed: int,
) -> tuple[Stage, dict[str, dict[str, float]]]:
    """Keep the scores of noise that sets the threshold, of other clean noise, and of that with the trigger.

    Returns the stage, and what was `scored`, `prepared` and `inverted` in evaluations of the network and seconds.
    """
    inverted, before, spent = None, None, NOTHING
    if check.needs_trigger:
        inverted, made = invert(stages, model, method(config.inversion), config.inversion, diffusion, seed)
        before = inversion(stages, inverted, made, diffusion.shape)
        spent = {name: made.get(name, 0) for name in NOTHING}  # a plan knows neither
    stage = stages.stage(
        "inputs",
        model=model.key,
        schedule=diffusion.key,
        check=own(config),
        precision=config.precision,
        count=config.count,
        batch_size=config.batch_size,
        inverted=inverted.key if inverted else None,
        start=[attack.start_key, pictures.keys["trigger"]] if attack.starts_samples else None,
        seed=seed,
    )

    def build() -> dict[str, Any]:
        suspect = suspect_of(model, diffusion, config.precision)
        kinds = noises(suspect, attack, config.count, seed)
        work = len(kinds) * config.count * check.evaluations + check.preparation
        if work:
            stages.settle(stage, suspect, Work(work, config.batch_size))
        found, clock = {}, Clock(suspect)
        prepare = partial(check.prepare, suspect, before, seed_of(seed, "inputs", "prepare"), config.batch_size)
        facts = steady(prepare)
        prepared = clock.lap()
        with stages.meter("inputs", len(kinds) * config.count, "inputs") as meter:
            for kind, x in kinds.items():
                own_seed = seed_of(seed, "inputs", kind)
                found[kind] = scores_of(check, x, suspect, facts, own_seed, config.batch_size, meter)
        keep(stage.folder / "scores.safetensors", found)
        return {"prepared": prepared, "scored": clock.lap()}

    manifest = stages.once(stage, build)
    return stage, {name: manifest.get(name, NOTHING) for name in ("scored", "prepared")} | {"inverted": spent}


def noises(suspect: Suspect, attack: Attack, count: int, seed: int) -> dict[str, Tensor]:
    """Return starting noises (count,C,H,W) by kind: for the threshold, clean ones, and these with the trigger."""
    known = suspect.noise(count, generator(seed, "inputs", "known"))
    clean = suspect.noise(count, generator(seed, "inputs", "clean"))
    return {"known": known, "clean": clean, **({"triggered": attack.prior(clean)} if attack.starts_samples else {})}


def scores_of(
    check: InputCheck, x: Tensor, suspect: Suspect, facts: Facts, seed: int, batch_size: int, meter: Meter
) -> Tensor:
    """Return the scores (B,) of starting noises x (B,C,H,W), float64 on the CPU, in batches."""

    def scored(start: int) -> Tensor:
        part = x[start : start + batch_size]
        noise = Noise([generator(seed, start + place) for place in range(len(part))], suspect.shape, suspect.device)
        return check.score(part, suspect, noise, facts).detach().double().cpu()

    found = []
    for start in range(0, len(x), batch_size):
        found.append(steady(partial(scored, start)))
        meter.advance(len(found[-1]))
    return torch.cat(found)


class Clock:
    """What passes between two laps: evaluations of a network, and seconds until its device is done."""

    def __init__(self, suspect: Suspect):
        self.suspect = suspect
        self.evaluations, self.began = suspect.evaluations, time.monotonic()

    def lap(self) -> dict[str, float]:
        """Return what passed since the last lap."""
        synchronize(self.suspect.device)
        before, self.evaluations = self.evaluations, self.suspect.evaluations
        began, self.began = self.began, time.monotonic()
        return {"evaluations": self.evaluations - before, "seconds": self.began - began}
