"""State dicts as other tools save them: under an outer key, or with a wrapper's prefix before every name."""

from collections.abc import Collection, Mapping
from typing import Any

#: keys under which training scripts save a state dict; averaged weights come first
OUTER = ("ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "net", "unet", "weights")
#: of DataParallel, torch.compile, Lightning and others
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "unet.", "ema_model.")


def peeled(held: Any, expected: Collection[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return the state dict in `held` under its own names, and the keys and prefixes that were removed.

    `expected` are a model's names, if known: nothing is removed from a dict that has one of them.
    """
    layers = []
    while isinstance(held, Mapping) and held.keys().isdisjoint(expected):
        if key := next((key for key in OUTER if holds_weights(held.get(key))), None):
            held = held[key]
        elif key := next((one for one in PREFIXES if held and all(str(name).startswith(one) for name in held)), None):
            held = {name.removeprefix(key): weight for name, weight in held.items()}
        else:
            break
        layers.append(key)
    if not isinstance(held, Mapping):
        raise ValueError(f"it holds a {type(held).__name__}, not weights by name")
    return dict(held), layers


def holds_weights(value: Any) -> bool:
    """Return whether `value` is a state dict, or a dict around one."""
    return isinstance(value, Mapping) and any(hasattr(one, "shape") or holds_weights(one) for one in value.values())


def words(layers: list[str]) -> str:
    """Return a line for the log about what `peeled` removed."""
    return f"names read without: {' '.join(layers)}"
