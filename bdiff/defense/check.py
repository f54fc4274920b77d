"""What can be told of a defense's settings before torch is imported."""

from collections.abc import Sequence
from math import floor, log
from statistics import NormalDist
from typing import Any

#: noise-shift laws that have a name, see bdiff/defense/laws.py
LAWS = ("ancestral", "ode")
#: share of alpha of a certification's last look at the votes, where it can stop earlier
LAST = 0.9


def timesteps(shares: Sequence[float], length: int) -> list[int]:
    """Return the timesteps at `shares` of a schedule of `length`; ValueError unless they fall, within 1 to 0."""
    t = [round(share * (length - 1)) for share in shares]
    if not t or t != sorted({*t}, reverse=True) or not 0 <= t[-1] <= t[0] < length:
        raise ValueError(f"timesteps={list(shares)} must be falling shares, 1 to 0, of a schedule of {length}")
    return t


def schedule_problems(method: dict[str, Any], place: str, length: int) -> list[str]:
    """Return which settings of the method at the key `place` do not fit a schedule of `length` timesteps."""
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
    return told


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
    if samples <= 2 * trim:
        told.append(f"defense.samples={samples} is too few to trim {trim} at both ends: set {2 * trim + 1} or more")
    return told
