"""What the settings of a defense make together, told before torch is imported; its class names these in `checks`."""

from collections.abc import Sequence
from importlib.util import find_spec
from math import floor, inf, log, sqrt
from statistics import NormalDist
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.config.parts import describe
from bdiff.diffusion.schedulers import last_abar

SHIELD = "bdiff.defense.base.Shield"
#: correction coefficient that have a name, see bdiff/defense/detection/laws.py
LAWS = ("ancestral", "ode")
#: fraction of alpha of a certification's last look at the votes, where it can stop earlier
LAST = 0.9


def node(config: DictConfig, key: str) -> Any:
    """Return the part of a config at a dotted key as plain values."""
    return OmegaConf.to_container(OmegaConf.select(config, key), resolve=True)


def timesteps(shares: Sequence[float], length: int) -> list[int]:
    """Return the timesteps at `shares` of a schedule of `length`; ValueError unless they fall, within 1 to 0."""
    t = [round(share * (length - 1)) for share in shares]
    if not t or t != sorted({*t}, reverse=True) or not 0 <= t[-1] <= t[0] < length:
        raise ValueError(f"timesteps={list(shares)} must be falling shares, 1 to 0, of a schedule of {length}")
    return t


def chain_problems(config: DictConfig, key: str) -> list[str]:
    """Return that a chain does not fit the schedule, or that its losses all come to zero and move no trigger."""
    method, told = node(config, key), []
    try:
        timesteps(method["timesteps"], config.schedule.num_train_timesteps)
    except ValueError as problem:
        told.append(f"{key}.{problem}")
    if not (method["shift"] or method["spread"] or (method["consistency"] and len(method["timesteps"]) > 1)):
        told.append(
            f"{key}.shift, spread and consistency come to no loss, so that the trigger stays at its start: set "
            "one above 0 (consistency takes two timesteps)"
        )
    return told


def window_problems(config: DictConfig, key: str) -> list[str]:
    """Return which of TERD's lengths are more than the schedule's."""
    method, length = node(config, key), config.schedule.num_train_timesteps
    return [
        f"{key}.{name}={method[name]} is more than the schedule's {length} timesteps"
        for name in ("window", "ddim_steps")
        if method[name] > length
    ]


def distance_problems(config: DictConfig, key: str) -> list[str]:
    """Return that a threshold is beyond scores that are minus a mean squared distance on [0,1]."""
    return threshold_problems(config, key, -1.0, 0.0)


def divergence_problems(config: DictConfig, key: str) -> list[str]:
    """Return that a threshold is beyond scores that are a divergence."""
    return threshold_problems(config, key, 0.0, inf)


def threshold_problems(config: DictConfig, key: str, least: float, most: float) -> list[str]:
    """Return that a threshold flags every model, or none, by scores above `least` and up to `most`."""
    threshold = node(config, key)["threshold"]
    if not isinstance(threshold, int | float) or least < threshold <= most:
        return []
    whom = "no model" if threshold > most else "every model"
    return [f"{key}.threshold={threshold} flags {whom}: choose within its scores, {least:g} to {most:g}, or null"]


def sample_problems(config: DictConfig, key: str) -> list[str]:
    """Return that a detection looks at more samples than are drawn, or at too few to trim them."""
    if key != "defense":  # an amplification looks at none
        return []
    drawn = min(config.sample.count, config.sample.get("triggered", config.sample.count))
    samples, trim, told = config.defense.samples, config.defense.trim, []
    if samples > drawn:
        told.append(
            f"defense.samples={samples} is more than the {drawn} that are drawn: raise sample.count or triggered"
        )
    least = max(2, 2 * trim + 1)  # one sample is at no distance from itself
    if samples < least:
        told.append(f"defense.samples={samples} is too few to trim {trim} at both ends: set {least} or more")
    return told


def certificate_problems(config: DictConfig, key: str) -> list[str]:
    """Return that a certification can certify no image, or none as far as wanted, whatever the votes.

    If all n votes are for one label its probability is at least alpha^(1/n) (Cohen et al. 2019, section 3.2.2).
    """
    method, abar = node(config, key), last_abar(node(config, "schedule"))
    n, alpha, sigma = method["n"], method["alpha"], method["sigma"]
    largest = sqrt((1 - abar) / abar) / 2  # images in [-1,1] are twice as wide
    told = [f"{key}.sigma={sigma} is beyond the schedule, which ends at {largest:.3g}"] if sigma > largest else []
    level = alpha * (LAST if method["stop"] == "radii" else 1)
    least = floor(log(level) / log(0.5)) + 1
    if n < least:
        return [*told, f"{key}.n={n} can only abstain at {key}.alpha={alpha}: set n to {least} or more"]
    furthest = sigma * NormalDist().inv_cdf(level ** (1 / n))
    if beyond := [radius for radius in method["radii"] if radius > furthest]:
        told.append(
            f"{key}.radii={method['radii']}: certified accuracy at {beyond[0]} is 0 for any model, since n={n}, "
            f"alpha={alpha} and sigma={sigma} certify no more than {furthest:.3g}: raise n, or leave it out"
        )
    return told


def purification_problems(config: DictConfig, key: str) -> list[str]:
    """Return that a purification is longer than the schedule, or has more steps than timesteps."""
    method, length = node(config, key), config.schedule.num_train_timesteps
    t, steps = method["t"], method["steps"]
    told = [f"{key}.t={t} is beyond the schedule's {length} timesteps"] if t > length else []
    if steps is not None and steps > t:
        told.append(f"{key}.steps={steps} must be 1 to {key}.t={t}, or null for all")
    return told


def adversary_problems(config: DictConfig, key: str) -> list[str]:
    """Return that a shield's adversary is not installed."""
    if node(config, key)["adversary"]["method"] == "apgd" and find_spec("pyautoattack") is None:
        return [f"{key}.adversary.method=apgd needs pyautoattack: pip install 'bdiff[attacks]'"]
    return []


def clipping_problems(config: DictConfig, key: str) -> list[str]:
    """Return that clipping changes nothing of what the sampler does, or cannot."""
    if "clip_sample" not in config.sampler.scheduler:
        return ["defense=clipping works with sampler=ddpm and sampler=ddim only"]
    same = "sample.clip=true clips already, and defense=clipping would change no sample: use one of them"
    return [same] if config.sample.clip else []


def trigger_problems(config: DictConfig, key: str) -> list[str]:
    """Return that a removal which works from an inverted trigger stands behind a shield, which inverts none."""
    defense = config.defense
    if defense.get("repair") and SHIELD in describe(defense._target_).bases:
        return ["defense.repair=true: this repair needs a trigger: use defense/removal=finetune"]
    return []
