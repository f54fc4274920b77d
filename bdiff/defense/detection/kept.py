"""The state of a descent, kept in a file from time to time, so that a killed one goes on."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bdiff.common.device import Late
from bdiff.store import artifacts

EVERY = 20.0  # seconds of work that a kill loses at most


class Kept:
    """A descent's state in the file `path`; without a path nothing is kept."""

    def __init__(self, path: Path | None = None):
        self.path, self.saved = path, time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state that a killed descent has left, None if there is none or it is damaged."""
        if self.path is None or not self.path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return found

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state if it is time to."""
        if self.path is None or time.monotonic() - self.saved < EVERY:
            return
        with artifacts.atomic(self.path) as scratch:
            torch.save(Late(state()).read(), scratch)
        self.saved = time.monotonic()
