"""Building parts from configs, which are data: only the parts of conf/ and a few of the libraries' can be named."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bdiff.common.errors import RequestError

THEIRS = re.compile(r"diffusers\.(UNet2DModel|\w+Scheduler)|torch\.optim\.[A-Z]\w+")


@cache
def ours() -> set[str]:
    """Return the parts of bdiff that a config may name: those that the files of conf/ name."""
    files = Path(str(resources.files("bdiff.conf"))).rglob("*.yaml")
    return {name for file in files for name in re.findall(r"_target_: (bdiff\.[\w.]+)", file.read_text())}


def make(config: DictConfig, **arguments: Any) -> Any:
    """Return what `config._target_` makes of the config's other keys and `arguments`.

    Made in two steps, so that Hydra neither turns our dataclasses into configs nor wraps what the part raises.
    RequestError if the config names anything but a part.
    """
    told = [line for key, target in targets(config) if (line := foreign(key, target))]
    if told:
        raise RequestError(*told)
    return instantiate(config, _partial_=True, _convert_="all")(**arguments)


def targets(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of every `_target_` in a config, or in plain containers; nothing is resolved."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=False)
    if isinstance(config, dict):
        for name, value in config.items():
            if name == "_target_":
                yield f"{prefix}_target_", value
            else:
                yield from targets(value, f"{prefix}{name}.")
    elif isinstance(config, list):
        for place, part in enumerate(config):
            yield from targets(part, f"{prefix}{place}.")


def foreign(key: str, target: Any) -> str | None:
    """Return in one line that `target` is none of the parts a config may name, or None if it is one."""
    if target is None or (isinstance(target, str) and (target in ours() or THEIRS.fullmatch(target))):
        return None
    part = key.removesuffix("_target_").rstrip(".") or "a part"
    may = "a config may name what conf/ names, diffusers' schedulers and torch's optimizers"
    return f"{part}: {target} is refused: {may}"
