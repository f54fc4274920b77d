"""The environment of a run: devices, processes, launchers and folders."""

import os
import re
from importlib.util import find_spec

from omegaconf import DictConfig, OmegaConf

from bdiff.common.places import folder_problems

#: set by torchrun; if only some of it is set, processes wait for each other forever
TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
#: set by MPI launchers, and read by Accelerate
MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def device_problems(config: DictConfig) -> list[str]:
    """Return why a CUDA device that is requested by name cannot be used."""
    name = str(config.runtime.device)
    if not name.startswith("cuda"):
        return []
    import torch

    index = int(name.partition(":")[2] or 0)
    if index < torch.cuda.device_count():
        return []
    found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
    return [f"runtime.device={name}, but torch finds {found} here: use runtime.device=cpu or auto"]


def process_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the environment variables of torchrun, which may be left over from earlier work."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    wrong = [name for name in (*names, "MASTER_PORT") if not os.environ.get(name, "0").isdigit()]
    if wrong:
        return [f"{wrong[0]}={os.environ[wrong[0]]} in the environment is not a number: use torchrun, or unset it"]
    others = [name for name in MPI if os.environ.get(name, "1") != "1" and "WORLD_SIZE" not in os.environ]
    if others:
        return [f"{others[0]} is in the environment, but bdiff does not use MPI: use torchrun or unset {others[0]}"]
    given, missing = ([name for name in TORCHRUN if (name in os.environ) is there] for there in (True, False))
    if missing and (left := [name for name in names if name in given]):
        return [f"{left[0]} is in the environment without {', '.join(missing)}: use torchrun, or unset {left[0]}"]
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if rank >= world:
        return [f"RANK={rank} in the environment is not below WORLD_SIZE={world}: use torchrun, or unset both"]
    return []


def launcher_problems(config: DictConfig) -> list[str]:
    """Return the problem that a sweep's launcher is not installed."""
    target = str(OmegaConf.select(config, "hydra.launcher._target_", default=""))
    plugin = re.match(r"hydra_plugins\.(hydra_\w+_launcher)\.", target)
    if plugin is None or find_spec(f"hydra_plugins.{plugin[1]}"):
        return []
    name = plugin[1].replace("_", "-")
    package = name if name == "hydra-joblib-launcher" else "'bdiff[cluster]'"  # joblib's comes with bdiff
    return [f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']} needs {name}: pip install {package}"]


CHECKS = [
    (("name", "paths.", "hydra."), folder_problems),
    (("runtime.device",), device_problems),
    (("hydra.launcher",), launcher_problems),
    (("hydra.launcher",), process_problems),
]
