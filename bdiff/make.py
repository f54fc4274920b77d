"""Building parts from configs."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig


def make(config: DictConfig, **arguments: Any) -> Any:
    """Return what `config._target_` makes of the config's other keys and `arguments`.

    Made in two steps, so that Hydra neither turns our dataclasses into configs nor wraps what the part raises.
    """
    return instantiate(config, _partial_=True, _convert_="all")(**arguments)
