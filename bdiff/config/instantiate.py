"""Building parts from configs, which are data: only bdiff's parts, plugins' and a few of libraries' can be named."""

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
    """Return the parts that a config may name: bdiff's that conf/ names, and those that plugins name of their own."""
    files = Path(str(resources.files("bdiff.conf"))).rglob("*.yaml")
    own = {name for file in files for name in re.findall(r"_target_: (bdiff\.[\w.]+)", file.read_text())}
    return own.union(*(plugin.parts for plugin in installed().folders))


def make(config: DictConfig, **arguments: Any) -> Any:
    """Return what `config._target_` makes of the config's other keys and `arguments`.

    Made in two steps, so that Hydra neither turns our dataclasses into configs nor wraps what the part raises.
    RequestError if the config names anything but a part.
    """
    told = [line for key, target in targets(config) if (line := foreign(key, target))]
    if told:
        raise RequestError(*told)
    return instantiate(config, _partial_=True, _convert_="all")(**arguments)


def foreign(key: str, target: Any) -> str | None:
    """Return in one line that `target` is none of the parts a config may name, or None if it is one."""
    if target is None or (isinstance(target, str) and (target in ours() or THEIRS.fullmatch(target))):
        return None
    part = key.removesuffix("_target_").rstrip(".") or "a part"
    may = "a config may name the parts of bdiff and of installed plugins, diffusers' schedulers and torch's optimizers"
    return f"{part}: {target} is refused: {may}"
