"""Checks of the requested metrics before torch is imported."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bdiff.common.errors import RequestError
from bdiff.common.places import no_file
from bdiff.config.keys import plain
from bdiff.metric.fid import moments
from bdiff.metric.names import LPIPS_SIZE, OVER_FEATURES


def file_problems(metric: dict[str, Any], size: int) -> list[str]:
    """Return what is wrong with conf/metric for images of `size` px, one line each, with a hint."""
    fid, also = metric["fid"], metric["also"]
    files = [
        ("metric.fid.weights", fid.get("weights"), "set it to pytorch-fid's file, or use metric/fid=classifier"),
        ("metric.lpips_weights", metric["lpips_weights"], "set it to torchvision's AlexNet, or leave out lpips"),
    ]
    problems = [
        f"{key}={path} {why}: {hint}"
        for key, path, hint in files
        if path is not None and (why := no_file(Path(path).expanduser()))
    ]
    try:
        if fid.get("reference") is not None:
            moments.read(fid["reference"])
    except RequestError as problem:
        problems += problem.problems
    for name in sorted({*OVER_FEATURES} & {*also}):
        if fid["_target_"] is None:
            problems.append(f"metric.also has {name}, which needs features: choose metric/fid=inception or classifier")
    if "lpips" in also and size < LPIPS_SIZE:
        problems.append(f"metric.also has lpips, which needs images of {LPIPS_SIZE} px or more, and data.size={size}")
    return problems


def metric_problems(config: DictConfig) -> list[str]:
    """Return the metrics that cannot be computed for the request, or lack a file."""
    return file_problems(plain(config.metric), config.data.size)


CHECKS = [(("metric.", "data.size"), metric_problems)]
