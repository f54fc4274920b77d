"""What a stage behind the attack found out: numbers, and what there is to look at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdiff.metric.base import first
from bdiff.sample import shards
from bdiff.store import Stage

SHEET = 64  # images that are shown at most


@dataclass(frozen=True)
class Answer:
    """The part of metrics.json that a defense or an amplification adds, and its pictures."""

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    triggers: dict[str, Tensor] = field(default_factory=dict)  # by name, (C,H,W) in [-1,1] or beyond
    samples: dict[str, Tensor] = field(default_factory=dict)  # the first of each kind, uint8 (B,C,H,W)
    figures: dict[str, Callable[[Path], None]] = field(default_factory=dict)  # by name, what writes each to a file

    def __or__(self, other: "Answer") -> "Answer":
        """Return both."""
        return Answer(**{part: getattr(self, part) | getattr(other, part) for part in self.__dataclass_fields__})


def first_images(samples: Stage, kind: str, least: int = 0) -> Tensor:
    """Return the first images of a kind, uint8 (B,C,H,W): enough for a sheet, and `least` if so many were drawn."""
    return torch.cat([*first(shards(samples.folder / "shards", kind), max(SHEET, least))])
