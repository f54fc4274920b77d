"""Building parts from configs, which are data: only bdiff's parts, plugins' and some of libraries' can be named."""

import inspect
import re
from dataclasses import fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

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


def made_of(config: DictConfig, *but: str, **arguments: Any) -> Any:
    """Make a part of the keys of its node that are its own, neither of `around` nor among `but`, and of `arguments`."""
    own = [name for name in map(str, config) if name not in {*around(config), *but}]
    return make(OmegaConf.masked_copy(config, own), **arguments)


def defaults(config: DictConfig) -> dict[str, Any]:
    """Return the values of those settings of a part that a config may lack, since they are newer than the part.

    With them a part is what it was before, so keys leave them out. Both the part's own settings and those that the
    pipeline reads (`settings`).
    """
    part = get_class(config._target_)
    makers = [part, *filter(None, [getattr(part, "settings", None)])]
    found = [one for maker in makers for one in inspect.signature(maker).parameters.values()]
    values = {one.name: one.default for one in found if one.default is not one.empty}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def around(config: DictConfig) -> set[str]:
    """Return the keys of a part's node that its `settings` declare, not its constructor."""
    settings = getattr(get_class(config._target_), "settings", None)
    return {field.name for field in fields(settings)} if settings else set()


def foreign(key: str, target: Any) -> str | None:
    """Return in one line why a config may not name `target`; None if it may."""
    if target is None or (isinstance(target, str) and (target in ours() or THEIRS.fullmatch(target))):
        return None
    part = key.removesuffix("_target_").rstrip(".") or "a part"
    may = "a config may name the parts of bdiff and of installed plugins, diffusers' schedulers and torch's optimizers"
    return f"{part}: {target} is refused: {may}"
