"""The statistics of randomized smoothing (Cohen et al. 2019, arXiv 1902.02918), its table and what is read off it.

Radii are L2, for images in [0,1].
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from scipy.stats import binomtest, norm
from torch import Tensor

from bdiff import store

ABSTAIN = -1


class Row(NamedTuple):
    """One certified image; the fields are the columns of Cohen's TSV."""

    idx: int  # the image's row in its dataset
    label: int
    predict: int  # or ABSTAIN
    radius: float  # 0 where it abstains
    correct: int  # 1 if predict is label
    time: str  # h:mm:ss.ssssss


HEADER = "\t".join(Row._fields) + "\n"


def lower_bound(hits: int, n: int, alpha: float) -> float:
    """Return the one-sided Clopper-Pearson bound: p is below it with probability `alpha` at most, given hits of n."""
    return float(binomtest(hits, n, alternative="greater").proportion_ci(1 - alpha, "exact").low)


def certify(counts0: Tensor, counts: Tensor, alpha: float, sigma: float) -> tuple[int, float]:
    """Return the smoothed classifier's label and its certified radius, or (ABSTAIN, 0) (Cohen et al., CERTIFY).

    Args:
        counts0: (classes,) votes that choose the label.
        counts: (classes,) other votes, which bound its probability.
        alpha: probability that the certificate is wrong, at most.
        sigma: the noise's standard deviation, for images in [0,1].
    """
    label = int(counts0.argmax())
    bound = lower_bound(int(counts[label]), int(counts.sum()), alpha)
    return (ABSTAIN, 0.0) if bound < 0.5 else (label, float(sigma * norm.ppf(bound)))


def read(path: Path) -> list[Row]:
    """Return a table's rows; a last line that a killed process left half written is not one.

    Raises ValueError if the file is no such table.
    """
    header, *lines = whole(path.read_text()).splitlines() or [""]
    if header + "\n" != HEADER:
        raise ValueError(f"{path} is no table of certified images: its first line must be {HEADER!r}")
    return [row(line) for line in lines]


def row(line: str) -> Row:
    """Return the row that a line holds."""
    idx, label, predict, radius, correct, time = line.split("\t")
    return Row(int(idx), int(label), int(predict), float(radius), int(correct), time)


def text(row: Row) -> str:
    """Return the line that holds `row`."""
    return "\t".join(map(str, row._replace(radius=f"{row.radius:.6g}"))) + "\n"  # type: ignore[arg-type]


def whole(text: str) -> str:
    """Return `text` without an unfinished last line."""
    return text[: text.rfind("\n") + 1]


def resume(path: Path) -> list[Row]:
    """Make `path` a table that rows can be appended to, keeping those that are whole, and return them."""
    kept = whole(path.read_text()) if path.exists() else ""
    with store.atomic(path) as scratch:
        scratch.write_text(kept or HEADER)
    return read(path)


def certified_accuracy(rows: Sequence[Row], radii: Iterable[float]) -> list[float]:
    """Return for each radius the share of images that are labelled right and certified that far."""
    return [fmean(row.correct and row.radius >= radius for row in rows) for radius in radii]


def acr(rows: Sequence[Row]) -> float:
    """Return the average certified radius, 0 counting for images that are labelled wrong (Zhai et al. 2020)."""
    return fmean(row.radius * row.correct for row in rows)
