"""What stages found out: numbers, and what there is to look at, as data; the report draws it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bdiff.diffusion.sampling import shards
from bdiff.metric.base import first
from bdiff.store.artifacts import Stage

SHEET = 64  # images that are shown at most


@dataclass(frozen=True)
class Picture:
    """One image, uint8 (C,H,W), every pixel enlarged."""

    image: Tensor


@dataclass(frozen=True)
class Sheet:
    """Images of a kind, uint8 (B,C,H,W), the first of them in a square."""

    images: Tensor


@dataclass(frozen=True)
class Beside:
    """Labelled images, uint8 (C,H,W) each, in a row."""

    images: Mapping[str, Tensor]


@dataclass(frozen=True)
class Overview:
    """A run at a glance: single images, uint8 (C,H,W), beside sheets of samples, uint8 (B,C,H,W), by their labels."""

    title: str
    singles: Mapping[str, Tensor]
    sheets: Mapping[str, Tensor]


@dataclass(frozen=True)
class Trajectory:
    """By kind, states uint8 (K+1,C,H,W) on the way from noise; all but the last at the timesteps t (K,)."""

    t: Sequence[float]
    rows: Mapping[str, Tensor]


@dataclass(frozen=True)
class LossCurve:
    """A training's history: rows with step, loss and lr."""

    title: str
    history: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ScoreHistogram:
    """An input check's scores by kind of starting noise; what is above the threshold is flagged."""

    title: str
    scores: Mapping[str, Sequence[float]]
    threshold: float


@dataclass(frozen=True)
class CertifiedCurves:
    """Certified accuracy at L2 radii (images in [0,1]) by model and kind of input; `points`: unknown between them."""

    title: str
    radii: Sequence[float]
    curves: Mapping[tuple[str, str], Sequence[float]]
    points: bool


@dataclass(frozen=True)
class Column:
    """Pictures of the same images in one state, uint8 (n,C,H,W), with the labels that the classifier gives them."""

    name: str
    images: Tensor
    labels: Sequence[str] | None = None


@dataclass(frozen=True)
class ShieldRows:
    """What denoisers make of images: a row for each, with its true label."""

    title: str
    truth: Sequence[str]
    columns: Sequence[Column]


Figure = Picture | Sheet | Beside | Overview | Trajectory | LossCurve | ScoreHistogram | CertifiedCurves | ShieldRows


@dataclass(frozen=True)
class StageResult:
    """The part of metrics.json that a defense or an amplification adds, and its pictures."""

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    triggers: dict[str, Tensor] = field(default_factory=dict)  # by name, (C,H,W) in [-1,1] or beyond
    samples: dict[str, Tensor] = field(default_factory=dict)  # the first of each kind, uint8 (B,C,H,W)
    figures: dict[str, Figure] = field(default_factory=dict)  # by name

    def __or__(self, other: "StageResult") -> "StageResult":
        """Return both."""
        return StageResult(**{part: getattr(self, part) | getattr(other, part) for part in self.__dataclass_fields__})


def first_images(samples: Stage, kind: str, least: int = 0) -> Tensor:
    """Return the first images of a kind, uint8 (B,C,H,W): enough for a sheet, and `least` if so many were drawn."""
    return torch.cat([*first(shards(samples.folder / "shards", kind), max(SHEET, least))])
