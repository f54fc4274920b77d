"""What can be told of the measures asked for before torch is imported."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.common.errors import RequestError
from bdiff.common.places import no_file
from bdiff.metric.fid import moments
from bdiff.metric.names import LPIPS_SIZE, OVER_FEATURES


def file_problems(metric: dict[str, Any], size: int) -> list[str]:
    """Return what is wrong with conf/metric for images of `size` px, one line each, with the mend."""
    fid, also = metric["fid"], metric["also"]
    files = [
        ("metric.fid.weights", fid.get("weights"), "give pytorch-fid's file, or measure with metric/fid=classifier"),
        ("metric.lpips_weights", metric["lpips_weights"], "give torchvision's AlexNet, or go without lpips"),
    ]
    told = [
        f"{key}={path} {why}: {mend}"
        for key, path, mend in files
        if path is not None and (why := no_file(Path(path).expanduser()))
    ]
    try:
        if fid.get("reference") is not None:
            moments.read(fid["reference"])
    except RequestError as problem:
        told += problem.problems
    for name in sorted({*OVER_FEATURES} & {*also}):
        if fid["_target_"] is None:
            told.append(f"metric.also has {name}, which needs features: choose metric/fid=inception or classifier")
    if "lpips" in also and size < LPIPS_SIZE:
        told.append(f"metric.also has lpips, which needs images of {LPIPS_SIZE} px or more, and data.size={size}")
    return told


def metric_problems(config: DictConfig) -> list[str]:
    """Return which measures cannot be taken of what the request makes, or lack a file."""
    metric: dict[str, Any] = OmegaConf.to_container(config.metric, resolve=True)  # type: ignore[assignment]
    return file_problems(metric, config.data.size)


CHECKS = [(("metric.", "data.size"), metric_problems)]
