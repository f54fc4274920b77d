"""Weights of classifiers from files."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from bdiff.common.errors import RequestError
from bdiff.common.pickles import refusal
from bdiff.common.places import no_file
from bdiff.model.wrapped import peeled, words

log = logging.getLogger(__name__)


def load_weights(model: nn.Module, given: str, key: str) -> None:
    """Fill `model` from the file `given` (safetensors, or a state dict that torch saved), unpickling no objects.

    Raises RequestError, which names the config's `key`, if the file is missing, damaged or of another network.
    """
    path = Path(given).expanduser()
    if why := no_file(path):
        raise RequestError(f"{key}={given} {why}")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        tensors, layers = peeled(tensors, model.state_dict().keys())
        model.load_state_dict(tensors)
    except Exception as error:  # the readers raise many types; each means a damaged or a foreign file
        why = refusal(error) or f"does not hold the weights of this {type(model).__name__} ({first_lines(error)})"
        raise RequestError(f"{key}={given} {why}") from error
    if layers:
        log.info("%s=%s: %s", key, given, words(layers))


def first_lines(error: Exception) -> str:
    """Return an error's first two lines as one, truncated to a readable length; torch's second names the mismatch."""
    text = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
    return text if len(text) <= 200 else f"{text[:200]} ..."
