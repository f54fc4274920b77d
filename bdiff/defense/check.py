"""What can be told of a defense's settings before torch is imported."""

from collections.abc import Sequence
from importlib.util import find_spec
from math import floor, inf, log
from statistics import NormalDist
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bdiff.common.errors import one_line
from bdiff.config.instantiate import make

CLIPPING = "bdiff.defense.sampling.clipping.Clipping"
REMOVAL = "bdiff.defense.removal.elijah.ElijahRemoval"
SHIELDS = ("bdiff.defense.shields.purification.Purification", "bdiff.defense.shields.certification.Certification")
#: noise-shift laws that have a name, see bdiff/defense/laws.py
LAWS = ("ancestral", "ode")
#: share of alpha of a certification's last look at the votes, where it can stop earlier
LAST = 0.9


def setting_problems(methods: dict[str, dict[str, Any]], count: int, length: int) -> list[str]:
    """Return what is wrong with the settings of methods, by their keys, for `count` samples and `length` timesteps.

    One of the keys is defense.
    """
    defense = methods["defense"]
    told = sample_problems(defense, count) + certificate_problems(defense) + threshold_problems(defense)
    return told + [line for place, method in methods.items() for line in schedule_problems(method, place, length)]


def timesteps(shares: Sequence[float], length: int) -> list[int]:
    """Return the timesteps at `shares` of a schedule of `length`; ValueError unless they fall, within 1 to 0."""
    t = [round(share * (length - 1)) for share in shares]
    if not t or t != sorted({*t}, reverse=True) or not 0 <= t[-1] <= t[0] < length:
        raise ValueError(f"timesteps={list(shares)} must be falling shares, 1 to 0, of a schedule of {length}")
    return t


def schedule_problems(method: dict[str, Any], place: str, length: int) -> list[str]:
    """Return which settings of the method at the key `place` do not fit a schedule of `length` timesteps.

    Among them a chain's losses that all come to zero, under which no trigger would leave its start.
    """
    told = [
        f"{place}.{name}={method[name]} is more than the schedule's {length} timesteps"
        for name in ("window", "ddim_steps")
        if method.get(name, 0) > length
    ]
    if "timesteps" in method:
        try:
            timesteps(method["timesteps"], length)
        except ValueError as problem:
            told.append(f"{place}.{problem}")
        if not (method["shift"] or method["spread"] or (method["consistency"] and len(method["timesteps"]) > 1)):
            told.append(
                f"{place}.shift, spread and consistency come to no loss, so that the trigger stays at its start: set "
                "one above 0 (consistency takes two timesteps)"
            )
    return told


def threshold_problems(defense: dict[str, Any]) -> list[str]:
    """Return that an audit's threshold flags every model, or none, whatever its score.

    Minus a mean squared distance on [0,1] is -1 to 0, and a divergence, TERD's score, is never below 0.
    """
    threshold = defense.get("threshold")
    if not isinstance(threshold, int | float):
        return []
    least, most = (0.0, inf) if "refine_steps" in defense else (-1.0, 0.0)
    if least < threshold <= most:
        return []
    whom = "no model" if threshold > most else "every model"
    return [f"defense.threshold={threshold} flags {whom}: choose within its scores, {least:g} to {most:g}, or null"]


def certificate_problems(defense: dict[str, Any]) -> list[str]:
    """Return that a certification can certify no image, or none as far as wanted, whatever the votes.

    If all n votes are for one label its probability is at least alpha^(1/n) (Cohen et al. 2019, section 3.2.2).
    """
    if "n0" not in defense:
        return []
    n, alpha = defense["n"], defense["alpha"]
    level = alpha * (LAST if defense["stop"] == "radii" else 1)
    least = floor(log(level) / log(0.5)) + 1
    if n < least:
        return [f"defense.n={n} can only abstain at defense.alpha={alpha}: set n to {least} or more"]
    furthest = defense["sigma"] * NormalDist().inv_cdf(level ** (1 / n))
    if beyond := [radius for radius in defense["radii"] if radius > furthest]:
        return [
            f"defense.radii={defense['radii']}: certified accuracy at {beyond[0]} is 0 for any model, since n={n}, "
            f"alpha={alpha} and sigma={defense['sigma']} certify no more than {furthest:.3g}: raise n, or leave it out"
        ]
    return []


def sample_problems(defense: dict[str, Any], count: int) -> list[str]:
    """Return that an audit looks at more samples than the `count` that are drawn, or at too few to trim them."""
    if "samples" not in defense:
        return []
    samples, trim = defense["samples"], defense["trim"]
    told = []
    if samples > count:
        told.append(
            f"defense.samples={samples} is more than the {count} that are drawn: raise sample.count or triggered"
        )
    least = max(2, 2 * trim + 1)  # one sample is at no distance from itself
    if samples < least:
        told.append(f"defense.samples={samples} is too few to trim {trim} at both ends: set {least} or more")
    return told


def defense_problems(config: DictConfig) -> list[str]:
    """Return what of a defense or an amplification does not fit the schedule, or the samples that are drawn."""
    found = {place: OmegaConf.select(config, place) for place in ("defense", "amplify.inversion")}
    methods: Any = {place: OmegaConf.to_container(part, resolve=True) for place, part in found.items() if part}
    drawn = min(config.sample.count, config.sample.get("triggered", config.sample.count))
    return setting_problems(methods, drawn, config.schedule.num_train_timesteps)


def clipping_problems(config: DictConfig) -> list[str]:
    """Return that clipping changes nothing of what the sampler does, or cannot."""
    if config.defense._target_ != CLIPPING:
        return []
    if "clip_sample" not in config.sampler.scheduler:
        return ["defense=clipping works with sampler=ddpm and sampler=ddim only"]
    same = "sample.clip=true clips already, and defense=clipping would change no sample: use one of them"
    return [same] if config.sample.clip else []


def shield_problems(config: DictConfig) -> list[str]:
    """Return how a shield does not fit the schedule of its denoiser, or is in itself impossible."""
    if config.defense._target_ not in SHIELDS:
        return []
    from bdiff.pipeline.suspect import method  # which imports torch: this request will need it anyway

    problems = []
    try:
        method(config.defense).check(make(config.schedule))
    except (ValueError, TypeError, HydraException) as error:
        problems.append(one_line(error))
    if OmegaConf.select(config, "defense.adversary.method") == "apgd" and find_spec("pyautoattack") is None:
        problems.append("defense.adversary.method=apgd needs pyautoattack: pip install 'bdiff[attacks]'")
    if config.defense.repair and config.defense.removal._target_ == REMOVAL:
        problems.append("defense.repair=true: this repair needs a trigger: use defense/removal=finetune")
    return problems


CHECKS = [
    (("sample.", "sampler.", "defense."), clipping_problems),
    (("sample.", "schedule.", "defense.", "amplify."), defense_problems),
    (("defense.", "schedule."), shield_problems),
]
