"""Building parts from configs, which are data: only bdiff's own parts and a few of its libraries' can be named."""

import re
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from bdiff.errors import RequestError

OURS = re.compile(r"bdiff\.(attack|classifier|data|defense|metric|schedule|target|tracker|trigger)(\.\w+)+")
THEIRS = re.compile(r"diffusers\.(UNet2DModel|\w+Scheduler)|torch\.optim\.[A-Z]\w+")


def make(config: DictConfig, **arguments: Any) -> Any:
    """Return what `config._target_` makes of the config's other keys and `arguments`.

    Made in two steps, so that Hydra neither turns our dataclasses into configs nor wraps what the part raises.
    RequestError if the config names anything but a part.
    """
    told = [line for key, target in targets(config) if (line := foreign(key, target, look=True))]
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


def foreign(key: str, target: Any, look: bool = False) -> str | None:
    """Return in one line that `target` is none of the parts a config may name, or None if it is one.

    With `look` it is imported too: a name inside bdiff may stand for something that a module there only uses.
    """
    known = target is None or (isinstance(target, str) and (OURS.fullmatch(target) or THEIRS.fullmatch(target)))
    if known and look and target is not None and OURS.fullmatch(target):
        found = get_object(target)
        known = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}" == target
    if known:
        return None
    part = key.removesuffix("_target_").rstrip(".") or "a part"
    may = "a config may name parts of bdiff, diffusers' schedulers and torch's optimizers"
    return f"{part}: {target} is refused: {may}"
