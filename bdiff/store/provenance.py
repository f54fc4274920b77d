"""Provenance: the code and its version, the libraries, the device, the precision. Torch-free on import."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bdiff
from bdiff import __version__

#: what git is asked about: a results file or a note beside it changes no number
SOURCES = ("bdiff", "conf", "pyproject.toml")
#: the packages that can affect the numbers
PACKAGES = ("torch", "torchvision", "diffusers", "accelerate", "torchmetrics", "hydra-core")


@cache
def code() -> dict[str, Any]:
    """Return the `commit` that bdiff runs from, None if it is installed, whether it is `dirty`, and the `version`.

    It is that of the first call: what is committed later is not what has been loaded.
    """
    root = Path(bdiff.__file__).parents[1]
    git = ["git", "-C", str(root)]
    found: dict[str, Any] = {"commit": None, "dirty": None, "version": __version__}
    if not (root / ".git").exists():  # installed, perhaps below somebody else's repository
        return found
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", *SOURCES]
        state = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git here, or a folder that is another user's
        return found
    return found | {"commit": commit, "dirty": bool(state.strip())}


def versions() -> dict[str, str]:
    """Return the versions of Python, bdiff and the installed packages that can affect the numbers."""
    found = {"python": platform.python_version(), "bdiff": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: Any) -> str:
    """Return the name of a torch device: the GPU's, or the CPU's with its number of cores."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """Return the CPU's name and its number of cores."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU ({names[0] if names else platform.machine()}, {os.cpu_count()} cores)"


def precision_of(parts: Any) -> str:
    """Return the precision named anywhere in a stage's parts; fp32 if none is."""
    if isinstance(parts, dict):
        if isinstance(parts.get("precision"), str):
            return parts["precision"]
        return next((found for part in parts.values() if (found := precision_of(part)) != "fp32"), "fp32")
    return "fp32"


def in_words(made: dict[str, Any]) -> str:
    """Return bdiff's commit, marked if it had uncommitted changes, or its version."""
    return f"{made['commit'][:12]}{'-dirty' * bool(made['dirty'])}" if made["commit"] else f"bdiff {made['version']}"
