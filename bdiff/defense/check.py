"""Checks of a defense's settings in combination, before torch is imported; its class names these in `checks`."""

from collections.abc import Sequence
from importlib.util import find_spec
from math import ceil, floor, inf, log, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.config.keys import plain
from bdiff.config.parts import describe
from bdiff.diffusion.schedulers import last_abar
from bdiff.metric.roc import passing
from bdiff.model.check import config_path, read
from bdiff.model.check import problems as checkpoint_problems

SHIELD = "bdiff.defense.base.Shield"
#: the named correction coefficients, see bdiff/defense/detection/coefficients.py
LAWS = ("ancestral", "ode")
#: the paths of a trigger in x_t
PATHS = ("mean", "noise")
#: the fraction of alpha for a certification's last look at the votes, if it can stop earlier
LAST = 0.9
#: clean noises that have to lie above an input check's threshold: with fewer, chance decides what its rate is
LEAST = 4


def node(config: DictConfig, key: str) -> Any:
    """Return the part of a config at a dotted key as plain values."""
    return plain(OmegaConf.select(config, key))


def timesteps(fractions: Sequence[float], length: int) -> list[int]:
    """Return the timesteps at `fractions` of a schedule of `length`; ValueError unless they decrease, within 1 to 0."""
    t = [round(fraction * (length - 1)) for fraction in fractions]
    if not t or t != sorted({*t}, reverse=True) or not 0 <= t[-1] <= t[0] < length:
        raise ValueError(f"timesteps={list(fractions)} must be decreasing fractions, 1 to 0, of a schedule of {length}")
    return t


def chain_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problems that a chain does not fit the schedule, or that all its losses are zero."""
    method, problems = node(config, key), []
    try:
        timesteps(method["timesteps"], config.schedule.num_train_timesteps)
    except ValueError as problem:
        problems.append(f"{key}.{problem}")
    if not (method["shift"] or method["spread"] or (method["consistency"] and len(method["timesteps"]) > 1)):
        problems.append(
            f"{key}.shift, spread and consistency give a loss of zero, so that the trigger is not optimized: set "
            "one above 0 (consistency needs two timesteps)"
        )
    return problems


def window_problems(config: DictConfig, key: str) -> list[str]:
    """Return which of TERD's lengths exceed the schedule's."""
    method, length = node(config, key), config.schedule.num_train_timesteps
    return [
        f"{key}.{name}={method[name]} is more than the schedule's {length} timesteps"
        for name in ("window", "ddim_steps")
        if method[name] > length
    ]


def distance_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a threshold is outside of scores that are minus a mean squared distance on [0,1].

    Scores that are relative to clean samples are at most 1.
    """
    absolute = node(config, key).get("flag_by", "score") == "score"
    return threshold_problems(config, key, *((-1.0, 0.0) if absolute else (-inf, 1.0)))


def divergence_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a threshold is outside of scores that are a divergence."""
    return threshold_problems(config, key, 0.0, inf)


def fraction_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a threshold is outside of scores that are a fraction, or relative ones of at most 1."""
    absolute = node(config, key).get("flag_by", "score") == "score"
    return threshold_problems(config, key, *((0.0, 1.0) if absolute else (-inf, 1.0)))


def solver_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a detection's sampler has more steps than it can take: UniPC one less than timesteps."""
    method, length = node(config, key), config.schedule.num_train_timesteps
    steps, most = method["sampler_steps"], length if method["family"] == "ancestral" else length - 1
    many = f"{key}.sampler_steps={steps} is too many: at most {most} of the schedule's {length} timesteps"
    return [many] if steps > most else []


def threshold_problems(config: DictConfig, key: str, least: float, most: float) -> list[str]:
    """Return the problem that a threshold flags every model, or none, by scores above `least` and up to `most`."""
    threshold = node(config, key)["threshold"]
    if not isinstance(threshold, int | float) or least < threshold <= most:
        return []
    whom = "no model" if threshold > most else "every model"
    return [f"{key}.threshold={threshold} flags {whom}: choose within its scores, {least:g} to {most:g}, or null"]


def sample_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a detection reads more samples than are drawn, or too few to trim them."""
    if key != "defense":  # an amplification reads none
        return []
    drawn = min(config.sample.count, config.sample.get("triggered", config.sample.count))
    samples, trim, problems = config.defense.samples, config.defense.get("trim", 0), []
    if samples > drawn:
        problems.append(
            f"defense.samples={samples} is more than the {drawn} that are drawn: raise sample.count or triggered"
        )
    least = max(2, 2 * trim + 1)  # a distance needs two samples
    if samples < least:
        problems.append(f"defense.samples={samples} is too few to trim {trim} at both ends: set {least} or more")
    return problems


def rate_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that an input check draws too few clean noises for the rate of false positives asked for."""
    count, rate = config.defense.count, config.defense.false_positive_rate
    above = passing(count, rate)
    if above >= LEAST:
        return []
    return [
        f"{key}.count={count} leaves {max(0, above)} clean noises above a threshold with "
        f"{key}.false_positive_rate={rate}, and {LEAST} are needed: set count to {needed(rate)} or more"
    ]


def needed(rate: float) -> int:
    """Return how many clean noises an input check needs for a rate of false positives."""
    return ceil((LEAST + 1) / rate - 1e-9) - 1


def step_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a sampler has more steps than the schedule has timesteps."""
    steps, length = node(config, key)["steps"], config.schedule.num_train_timesteps
    return [f"{key}.steps={steps} is more than the schedule's {length} timesteps"] if steps > length else []


def reference_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that there are fewer clean chains than it takes to know how their changes vary together."""
    references, least = node(config, key)["references"], 2 * node(config, key)["steps"]
    few = f"{key}.references={references} is too few for chains of {least // 2} steps: set {least} or more"
    return [few] if references < least else []


def certificate_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a certification can certify no image, or not at the requested radii, whatever the votes.

    If all n votes are for one label its probability is at least alpha^(1/n) (Cohen et al. 2019, section 3.2.2).
    """
    method, abar = node(config, key), last_abar(node(config, "schedule"))
    n, alpha, sigma = method["n"], method["alpha"], method["sigma"]
    largest = sqrt((1 - abar) / abar) / 2  # images in [-1,1] are twice as wide
    problems = [f"{key}.sigma={sigma} is beyond the schedule, which ends at {largest:.3g}"] if sigma > largest else []
    level = alpha * (LAST if method["stop"] == "radii" else 1)
    least = floor(log(level) / log(0.5)) + 1
    if n < least:
        return [*problems, f"{key}.n={n} can only abstain at {key}.alpha={alpha}: set n to {least} or more"]
    furthest = sigma * NormalDist().inv_cdf(level ** (1 / n))
    if beyond := [radius for radius in method["radii"] if radius > furthest]:
        problems.append(
            f"{key}.radii={method['radii']}: certified accuracy at {beyond[0]} is 0 for any model, since n={n}, "
            f"alpha={alpha} and sigma={sigma} certify no more than {furthest:.3g}: raise n, or remove that radius"
        )
    return problems


def purification_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a purification is longer than the schedule, or has more steps than timesteps."""
    method, length = node(config, key), config.schedule.num_train_timesteps
    t, steps = method["t"], method["steps"]
    problems = [f"{key}.t={t} is beyond the schedule's {length} timesteps"] if t > length else []
    if steps is not None and steps > t:
        problems.append(f"{key}.steps={steps} must be 1 to {key}.t={t}, or null for all")
    return problems


def adversary_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a shield's adversary is not installed."""
    if node(config, key)["adversary"]["method"] == "apgd" and find_spec("pyautoattack") is None:
        return [f"{key}.adversary.method=apgd needs pyautoattack: pip install 'bdiff[attacks]'"]
    return []


def clipping_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that clipping would not change the sampler, or that the sampler cannot clip."""
    if "clip_sample" not in config.sampler.scheduler:
        return ["defense=clipping works with sampler=ddpm and sampler=ddim only"]
    same = "sample.clip=true clips already, and defense=clipping would change no sample: use one of them"
    return [same] if config.sample.clip else []


def used(config: DictConfig, key: str) -> bool:
    """Return whether a removal at a dotted key is the run's defense, or comes after it."""
    return key == "defense" or bool(config.defense.get("repair"))


def generated_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a removal generates images in more steps than there are timesteps."""
    steps, length = node(config, key)["generated_steps"], config.schedule.num_train_timesteps
    if steps <= length or not used(config, key):
        return []
    return [f"{key}.generated_steps={steps} is more than the schedule's {length} timesteps"]


def clean_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a removal's clean model is missing, or is of another kind than the suspect."""
    clean, pretrained, name = node(config, key)["clean"], config.model.pretrained, f"{key}.clean"
    if not used(config, key):
        return []
    if clean is None:
        if pretrained is not None or config.pretrain.train is not None:
            return []
        return [
            f"{name}=null is the model that training started from, but here that is fresh weights, and the mean with "
            f"the weights of a model that is not related to the suspect is no model: train from a clean one "
            f"(model.pretrained, or an option of pretrain), set {name}=<folder>, or use another removal"
        ]
    unet, schedule = node(config, "model.unet"), node(config, "schedule")
    schedule.pop("_target_")
    lines = [line.replace("model.pretrained=", f"{name}=") for line in checkpoint_problems(clean, unet, schedule)]
    folder = Path(clean).expanduser()
    return lines or ([] if not folder.exists() else unlike(folder, unet, pretrained, f"{name}={clean}"))


def unlike(folder: Path, unet: dict[str, Any], pretrained: str | None, name: str) -> list[str]:
    """Return how the architecture in a diffusers folder differs from the suspect's, as far as that is here."""
    if pretrained is not None:
        start = Path(pretrained).expanduser()
        unet = unet | {word: value for word, value in read(config_path(start)).items() if word in unet}
        if not start.exists():
            return []
    found = read(config_path(folder))
    other = [word for word in unet if word in found and word != "sample_size" and found[word] != unet[word]]
    return [f"{name} has {word}={found[word]} and the suspect {unet[word]}: choose its architecture" for word in other]


def trigger_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a removal needs an inverted trigger, which a shield does not provide."""
    defense = config.defense
    if defense.get("repair") and SHIELD in describe(defense._target_).bases:
        return ["defense.repair=true: this repair needs a trigger: use defense/removal=finetune"]
    return []
