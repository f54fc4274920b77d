"""Building parts from configs, which are data: only bdiff's parts, plugins' and some of libraries' can be named."""

import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from bdiff.common.errors import RequestError
from bdiff.config.keys import targets
from bdiff.config.plugins import installed

THEIRS = re.compile(r"diffusers\.(UNet2DModel|\w+Scheduler)|torch\.optim\.[A-Z]\w+")


@cache
def ours() -> set[str]:
    """Return the parts that a config may name: those that conf/ and the yamls of plugins name."""
    files = Path(str(resources.files("bdiff.conf"))).rglob("*.yaml")
    own = {name for file in files for name in re.findall(r"_target_: (bdiff\.[\w.]+)", file.read_text())}
    return own.union(*(plugin.parts for plugin in installed().folders))


def make(config: DictConfig, **arguments: Any) -> Any:
    """Call `config._target_` with the config's other keys and `arguments`, and return the result.

    In two steps, so that Hydra neither converts our dataclasses to configs nor wraps the part's exceptions.
    RequestError if the config names anything but a known part.
    """
    problems = [line for key, target in targets(config) if (line := foreign(key, target))]
    if problems:
        raise RequestError(*problems)
    return instantiate(config, _partial_=True, _convert_="all")(**arguments)


def foreign(key: str, target: Any) -> str | None:
    """Return in one line why a config may not name `target`; None if it may."""
    if target is None or (isinstance(target, str) and (target in ours() or THEIRS.fullmatch(target))):
        return None
    part = key.removesuffix("_target_").rstrip(".") or "a part"
    may = "a config may name the parts of bdiff and of installed plugins, diffusers' schedulers and torch's optimizers"
    return f"{part}: {target} is refused: {may}"
