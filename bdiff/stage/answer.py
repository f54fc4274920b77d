"""What a stage behind the attack found out: numbers, and what there is to look at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bdiff.sample import shards
from bdiff.store import Stage


@dataclass(frozen=True)
class Answer:
    """The part of metrics.json that a defense or an amplification adds, and its pictures."""

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    triggers: dict[str, Tensor] = field(default_factory=dict)  # by name, (C,H,W) in [-1,1] or beyond
    samples: dict[str, Tensor] = field(default_factory=dict)  # the first batch by kind, uint8 (B,C,H,W)
    figures: dict[str, Callable[[Path], None]] = field(default_factory=dict)  # by name, what writes each to a file

    def __or__(self, other: "Answer") -> "Answer":
        """Return both."""
        return Answer(**{part: getattr(self, part) | getattr(other, part) for part in self.__dataclass_fields__})


def first_batch(samples: Stage, kind: str) -> Tensor:
    """Return the first batch of a kind, uint8 (B,C,H,W)."""
    return next(shards(samples.folder / "shards", kind))
