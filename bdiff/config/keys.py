"""The keys of a config: which exist, which no part takes, and the config as plain values."""

from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.common.spelling import did_you_mean

#: where keys may be added: diffusers checks the arguments of a scheduler, its step and a UNet; notes are free
FREE = ("hydra.", "published.", "sampler.scheduler.", "sampler.step.", "model.unet.")


def plain(config: DictConfig) -> Any:
    """Return a config node as plain resolved containers."""
    return OmegaConf.to_container(config, resolve=True)


def resolved(config: DictConfig) -> DictConfig:
    """Return a composed config without Hydra's own node, with references resolved."""
    own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    made: DictConfig = OmegaConf.create(plain(own))
    return made


def leaves(config: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Return every key of `config`, dotted, with its unresolved value."""
    found: dict[str, Any] = {}
    for name, value in config.items_ex(resolve=False):
        key = prefix + str(name)
        if isinstance(value, DictConfig) and not value._is_none() and value:
            found |= leaves(value, f"{key}.")
        else:
            found[key] = value
    return found


def children(known: Iterable[str], parent: str) -> set[str]:
    """Return the names directly below `parent` ("" for the top) in the dotted keys `known`."""
    start = f"{parent}." if parent else ""
    below = {name.removeprefix(start).partition(".")[0] for name in known if name.startswith(start)}
    return {name for name in below if "/" not in name}


def settings(config: DictConfig) -> set[str]:
    """Return the keys of `config` that a request may set."""
    return {name for name in leaves(config) if not name.startswith("hydra.") and "_target_" not in name}


def unknown(key: str, known: Iterable[str]) -> str:
    """Return the problem that `key` is not one of the dotted keys `known`, with the closest and its siblings."""
    parent = key.rpartition(".")[0]
    while parent and not children(known, parent):
        parent = parent.rpartition(".")[0]
    names = ", ".join(sorted(children(known, parent)))
    return f"{key} is not known{did_you_mean(key, known)} ({parent or 'a request'} has {names})"


def added_problems(config: DictConfig, base: DictConfig) -> list[str]:
    """Return which keys of `config` were added to a group of `base` although no part takes them.

    A new top-level key, and all below it, is the user's own; one below a plain value is caught by that value's type.
    """
    known = settings(base)
    groups = {str(name) for name, part in base.items_ex(resolve=False) if isinstance(part, DictConfig)}
    return [
        unknown(key, known)
        for key in sorted(settings(config) - known)
        if key.partition(".")[0] in groups and not key.startswith(FREE) and not within(key, known)
    ]


def within(key: str, known: Iterable[str]) -> bool:
    """Return whether `key` lies below one of `known`, or above."""
    return any(key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in known)


def targets(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of every `_target_` in a config, or in plain containers, unresolved."""
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
