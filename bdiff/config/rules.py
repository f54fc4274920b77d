"""What each value of a request must be like, beside having the type of the default it replaces."""

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from omegaconf import DictConfig, ListConfig

from bdiff.common.spelling import nearest
from bdiff.metric.fid.protocol import PRESETS
from bdiff.metric.names import ALSO


def at_least(least: float) -> Callable[[Any], str | None]:
    """Return a rule: a number not under `least`."""
    return lambda value: None if value >= least else f"must be at least {least}"


def count(value: Any) -> str | None:
    """A rule: a whole number from 1 up, also where a default of null says nothing of the type."""
    return type_problem(value, int) or at_least(1)(value)


def above_zero(value: Any) -> str | None:
    """A rule: a positive number."""
    return None if value > 0 else "must be above 0"


def one_of(*names: str) -> Callable[[Any], str | None]:
    """Return a rule: one of `names`."""
    return lambda value: None if value in names else nearest(str(value), names)


def a_name(value: Any) -> str | None:
    """A rule: the name of a run, which its folder bears."""
    text = str(value)
    wrong = text in ("", ".", "..") or re.search(r"[/\\\0]", text) or len(text.encode(errors="replace")) > 200
    return "is no file name of at most 200 bytes" if wrong else None


def share(value: Any) -> str | None:
    """A rule: a number from 0 to 1."""
    return None if 0 <= value <= 1 else "is not a share: choose a value from 0 to 1"


def open_share(value: Any) -> str | None:
    """A rule: a number between 0 and 1."""
    return None if 0 < value < 1 else "must lie between 0 and 1"


def some_share(value: Any) -> str | None:
    """A rule: a number above 0, to 1."""
    return None if 0 < value <= 1 else "must be above 0, and at most 1"


def under_one(value: Any) -> str | None:
    """A rule: a number from 0, and under 1."""
    return None if 0 <= value < 1 else "must be at least 0 and below 1"


def some_of(*names: str) -> Callable[[Any], str | None]:
    """Return a rule: a list of some of `names`."""

    def told(value: Any) -> str | None:
        wrong = [name for name in value if name not in names] if isinstance(value, ListConfig) else []
        return f"holds {wrong[0]}, which {nearest(str(wrong[0]), names)}" if wrong else None

    return told


def law(value: Any) -> str | None:
    """A rule: the name of a noise-shift law, or a positive number."""
    from bdiff.defense.check import LAWS  # which asks the rules above

    if type(value) in (int, float) and math.isfinite(value):
        return above_zero(value)
    told = one_of(*LAWS)(value)
    return f"{told}, or set a number" if told else None


def shares(value: Any) -> str | None:
    """A rule: falling numbers from 1 to 0."""
    numbers = isinstance(value, ListConfig) and value and all(type(one) in (int, float) for one in value)
    fits = numbers and value[0] <= 1 and value[-1] >= 0 and all(a > b for a, b in pairwise(value))
    return None if fits else "must be falling shares, as in [1.0,0.5]"


def counts(value: Any) -> str | None:
    """A rule: whole numbers from 1 up; at least one of them."""
    fits = isinstance(value, ListConfig) and value and all(type(one) is int and one >= 1 for one in value)
    return None if fits or not isinstance(value, ListConfig) else "must be whole numbers from 1 up, as in [8,12]"


def rising(value: Any) -> str | None:
    """A rule: numbers from 0 up, each above the one before; at least one of them."""
    numbers = [*value] if isinstance(value, ListConfig) else []
    if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        return "must hold numbers alone"
    pairs = zip([-1.0, *numbers], numbers, strict=False)
    fits = numbers and all(one >= 0 and one > before for before, one in pairs)
    return None if fits or not isinstance(value, ListConfig) else "must be numbers from 0 up that rise, as in [0,0.5]"


def device(value: Any) -> str | None:
    """A rule: a device's name."""
    fits = re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value))
    return None if fits else "is not known: choose from auto, cpu, cuda, cuda:N"


def threshold(value: Any) -> str | None:
    """A rule: auto, or a number."""
    fits = value == "auto" or (type(value) in (int, float) and math.isfinite(value))
    return None if fits else "must be a number, auto or null"


def threads(value: Any) -> str | None:
    """A rule: auto, or a number of threads."""
    fits = value == "auto" or (type(value) is int and value >= 1)
    return None if fits else "must be auto or a whole number from 1 up"


#: what a value must be like, beside having the type of the default it replaces; null values are not looked at
RULES: dict[str, Callable[[Any], str | None]] = {
    "name": a_name,
    "attack.case": one_of("purification", "certification", "both"),
    "attack.eps": above_zero,
    "attack.eta": above_zero,
    "attack.learn": at_least(0),
    "attack.mode": one_of("redirect", "preserve"),
    "attack.poison_rate": share,
    "attack.poison_mode": one_of("replace", "append"),
    "attack.sampler": one_of("ancestral", "ddim"),
    "attack.sigma": above_zero,
    "attack.steps": at_least(1),
    "attack.t": counts,
    "data.size": at_least(8),
    "data.channels": one_of(1, 3),  # type: ignore[arg-type]
    "data.split": one_of("train", "test", "all"),
    "data.limit": at_least(2),
    "classifier.hold_out": open_share,
    "defense.adaptive.eot": at_least(1),
    "defense.adaptive.gradient": one_of("full", "bpda"),
    "defense.adaptive.steps": at_least(0),
    "defense.adversary.eps": above_zero,
    "defense.adversary.method": one_of("pgd", "apgd"),
    "defense.adversary.norm": one_of("linf", "l2"),
    "defense.adversary.step": above_zero,
    "defense.adversary.steps": at_least(1),
    "defense.alpha": open_share,
    "defense.at_once": at_least(1),
    "defense.batch": at_least(1),
    "defense.batch_size": at_least(1),
    "defense.bound": above_zero,
    "defense.budget": above_zero,
    "defense.clip_norm": above_zero,
    "defense.consistency": at_least(0),
    "defense.count": at_least(1),
    "defense.ddim_steps": at_least(1),
    "defense.gamma": at_least(0),
    "defense.law": law,
    "defense.lr": above_zero,
    "defense.n": at_least(1),
    "defense.n0": at_least(1),
    "defense.precision": one_of("auto", "bf16", "fp32"),
    "defense.probes": at_least(0),
    "defense.probe_draws": at_least(8),
    "defense.probe_rounds": at_least(1),
    "defense.radii": rising,
    "defense.refine_steps": at_least(0),
    "defense.removal.images": share,
    "defense.removal.keep": at_least(0),
    "defense.removal.unshift": at_least(0),
    "defense.restarts": at_least(1),
    "defense.samples": at_least(1),
    "defense.seed": at_least(0),
    "defense.share": some_share,
    "defense.shift": at_least(0),
    "defense.sigma": above_zero,
    "defense.spread": at_least(0),
    "defense.steps": count,
    "defense.stop": one_of("never", "radii"),
    "defense.strip.blends": at_least(0),
    "defense.strip.false_positive_rate": open_share,
    "defense.strip.weight": under_one,  # 1 leaves nothing of the input
    "defense.t": at_least(1),
    "defense.threshold": threshold,
    "defense.timesteps": shares,
    "defense.trim": at_least(0),
    "defense.votes": at_least(1),
    "defense.window": at_least(1),
    "metric.also": some_of(*ALSO),
    "metric.asr_threshold": open_share,
    "metric.batch_size": at_least(1),
    "metric.fid.protocol": one_of(*PRESETS),
    "runtime.device": device,
    "runtime.memory": at_least(0),
    "runtime.threads": threads,
    "runtime.workers": at_least(0),
    "runtime.keep": at_least(1),
    "runtime.log_every": at_least(1),
    "runtime.checkpoint_seconds": at_least(0),
    "sample.count": at_least(2),
    "sample.triggered": at_least(2),
    "sample.batch_size": at_least(1),
    "sample.steps": at_least(1),
    "sample.precision": one_of("auto", "bf16", "fp32"),
    "sampler.step.eta": share,
    "sampler.steps": at_least(1),
    "schedule.beta_end": open_share,
    "schedule.beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "schedule.beta_start": open_share,
    "schedule.num_train_timesteps": at_least(2),
    "seed": at_least(0),
    "sweep.jobs_per_gpu": at_least(1),
    "surrogate.hold_out": open_share,
    "sweep.on_failure": one_of("continue", "stop"),
    "tracker.mode": one_of("auto", "online", "offline", "disabled"),
    "train.batch_size": at_least(1),
    "train.clip_norm": above_zero,
    "train.ema": share,
    "train.epochs": at_least(0),
    "train.lr": above_zero,
    "train.optimizer": one_of("adam", "adamw", "sgd"),
    "train.precision": one_of("auto", "bf16", "fp32"),
    "train.steps": at_least(0),
    "train.warmup": at_least(0),
    "train.weight_decay": at_least(0),
    "trigger.seed": at_least(0),
    "trigger.side": at_least(1),
}
#: what of a defense's settings an amplification reads
INVERSION = ("batch", "bound", "consistency", "law", "lr", "precision", "shift", "spread", "steps", "timesteps")
RULES |= {f"amplify.inversion.{name}": RULES[f"defense.{name}"] for name in INVERSION}
#: a classifier, the model that training starts from and repairs are trained by recipes of the same kind
RECIPES = ("", "classifier.", "surrogate.", "pretrain.", "defense.", "defense.removal.")
RULES |= {place + key: rule for place in RECIPES for key, rule in RULES.items() if key.startswith("train.")}
#: a repair that trains nothing leaves the suspect as it is
REPAIRS = ("defense.train.steps", "defense.train.epochs", "defense.removal.train.steps", "defense.removal.train.epochs")
RULES |= dict.fromkeys(REPAIRS, above_zero)

#: keys that may be null, and their type otherwise
OPTIONAL: dict[str, type] = {
    "classifier.model.path": str,
    "classifier.model.size": int,
    "classifier.weights": str,
    "data.limit": int,
    "data.path": str,
    "defense.threshold": str,
    "metric.asr_threshold": float,
    "metric.fid.reference": str,
    "metric.fid.weights": str,
    "metric.lpips_weights": str,
    "model.pretrained": str,
    "surrogate.model.path": str,
    "surrogate.model.size": int,
    "surrogate.weights": str,
    "target.path": str,
    "tracker.entity": str,
    "tracker.group": str,
    "train.clip_norm": float,
    "train.ema": float,
    "train.epochs": float,
    "train.steps": int,
    "trigger.path": str,
    "trigger.side": int,
}
OPTIONAL |= {place + key: kind for place in RECIPES for key, kind in OPTIONAL.items() if key.startswith("train.")}

#: keys whose values may be of another type than their default; their rules say which
MIXED = ("amplify.inversion.law", "defense.law", "defense.threshold", "runtime.threads")

TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (quote a number twice, as in name=\"'5'\")",
    ListConfig: "a list, as in [1,2]",
    DictConfig: "a group, as in {name:value}",
}


def type_problem(value: Any, kind: type) -> str | None:
    """Return how `value` is not of the type `kind`, if that is one of `TYPE_NAMES`."""
    fits = type(value) is kind
    if kind is float:
        fits = type(value) in (int, float) and math.isfinite(value)
    return f"must be {TYPE_NAMES[kind]}" if kind in TYPE_NAMES and not fits else None
