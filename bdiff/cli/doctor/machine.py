"""The machine: versions, devices, disk and caches."""

import os
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from omegaconf import DictConfig
from packaging.requirements import Requirement
from rich.filesize import decimal

from bdiff.cli.data import cache_of, size_of
from bdiff.cli.doctor.finding import MISSING, OK, WARN, Finding

#: the extras of the package that options need, and for what
EXTRAS = {
    "attacks": "APGD, the strong adversary of shields",
    "classifiers": "classifier=timm",
    "cluster": "sweeps on SLURM or Ray",
}
SCARCE = 5 * 10**9  # bytes of free disk below which to warn: CIFAR-10, a model and its samples


def versions() -> list[Finding]:
    """Return Python, bdiff and every package that it requires, then those of the extras that options need."""
    found = [Finding("python", OK, platform.python_version()), Finding("bdiff", OK, metadata.version("bdiff"))]
    required = [Requirement(line) for line in metadata.requires("bdiff") or []]
    found += [package(one) for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    for extra, use in EXTRAS.items():
        found += [optional(one.name, extra, use) for one in required if one.marker and in_extra(one, extra)]
    return found


def in_extra(requirement: Requirement, extra: str) -> bool:
    """Return whether a requirement is one of an extra's alone."""
    assert requirement.marker is not None
    return requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate({"extra": ""})


def optional(name: str, extra: str, use: str) -> Finding:
    """Return whether a package of an extra is installed."""
    try:
        return Finding(name, OK, f"{metadata.version(name)}, for {use}")
    except metadata.PackageNotFoundError:
        return Finding(name, WARN, f"not installed; only for {use}", f"pip install 'bdiff[{extra}]'")


def package(requirement: Requirement) -> Finding:
    """Return whether a required package is installed in a compatible version."""
    hint = f"pip install '{requirement}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(requirement.name, MISSING, "not installed", hint)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, MISSING, f"{version} does not fit {requirement.specifier}", hint)
    return Finding(requirement.name, OK, version)


def devices() -> list[Finding]:
    """Return the CPU and each CUDA device, with the precisions they support in hardware."""
    import torch

    from bdiff.common.device import free_memory, resolve_precision

    def precision(device: torch.device, tf32: bool) -> str:
        auto = resolve_precision("auto", device)
        kinds = ["fp32", *(["bf16"] if auto == "bf16" else []), *(["tf32 (left off: fp32 means fp32)"] if tf32 else [])]
        return f"fast in {', '.join(kinds)}; precision=auto is {auto}"

    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} in use, {decimal(free_memory())} of memory free"
    found = [Finding("cpu", OK, f"{threads}; {precision(torch.device('cpu'), tf32=False)}")]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        support = precision(torch.device("cuda", index), tf32=facts.major >= 8)
        found.append(Finding(f"cuda:{index}", OK, f"{facts.name}, {decimal(free)} of {decimal(total)} free; {support}"))
    if len(found) == 1:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        hint = "" if torch.version.cuda else "https://pytorch.org/get-started has builds with CUDA"
        found.append(Finding("cuda", WARN, f"none: torch {torch.__version__} is {build} and sees no device", hint))
    return [*found, suited(torch.cuda.is_available())]


def suited(cuda: bool) -> Finding:
    """Return which experiments this machine suits."""
    hint = "bdiff run ... runtime.plan=true estimates the time and memory of a run, and starts nothing"
    if cuda:
        return Finding("suits", OK, "all options; the published settings want the GPU", hint)
    return Finding(
        "suits", OK, "the digits and small models (model=cifar10_small); published settings want a GPU", hint
    )


def disk(config: DictConfig) -> list[Finding]:
    """Return the free disk space in the folders that runs write to."""
    places = {"paths.outputs": Path(config.paths.outputs).absolute(), "paths.cache": cache_of(config).absolute()}
    return [room(name, path) for name, path in places.items()]


def room(name: str, path: Path) -> Finding:
    """Return the free disk space at `path`, which need not exist yet."""
    parent = next(parent for parent in (path, *path.parents) if parent.exists())
    hint = f"set {name}=<folder> to another folder"
    try:
        with tempfile.TemporaryFile(dir=parent):  # checking permissions would miss read-only disks and full quotas
            pass
    except OSError as error:
        return Finding(name, MISSING, f"{path} cannot be written to ({error.strerror})", hint)
    free = shutil.disk_usage(parent).free
    state, hint = (OK, "") if free >= SCARCE else (WARN, hint)
    return Finding(name, state, f"{decimal(free)} free at {path}", hint)


def caches(config: DictConfig) -> list[Finding]:
    """Return the caches outside of paths.outputs, and their sizes."""
    import torch
    from huggingface_hub import constants

    places = {
        "bdiff": (cache_of(config), "BDIFF_CACHE"),
        "torch hub": (Path(torch.hub.get_dir()), "TORCH_HOME"),
        "huggingface": (Path(constants.HF_HUB_CACHE), "HF_HOME"),
    }
    return [
        Finding(what, OK, f"{size_of(path)} at {path} ({mover} moves it)") for what, (path, mover) in places.items()
    ]
