"""The statistics of randomized smoothing (Cohen et al. 2019, arXiv 1902.02918), its table and its summary numbers.

Radii are L2, for images in [0,1].
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from scipy.special import betaincinv, ndtr, ndtri

from bdiff.store import artifacts

log = logging.getLogger(__name__)

ABSTAIN = -1


class Row(NamedTuple):
    """One certified image; the fields are the columns of Cohen's TSV."""

    idx: int  # the image's row in its dataset
    label: int
    predict: int  # or ABSTAIN
    radius: float  # 0 where it abstains
    correct: int  # 1 if predict is label
    time: str  # h:mm:ss.ssssss, since the previous row
    draws: int | None = None  # of noise; an added column, for tables where images have different numbers of draws


HEADER = "\t".join(Row._fields[:-1]) + "\n"
OURS = "\t".join(Row._fields) + "\n"


def lower_bound(hits: int, n: int, alpha: float) -> float:
    """Return the one-sided Clopper-Pearson bound: p is below it with probability `alpha` at most, given hits of n."""
    return float(betaincinv(hits, n - hits + 1, alpha)) if hits else 0.0


def upper_bound(hits: int, n: int, alpha: float) -> float:
    """Return the upper bound: p is above it with probability `alpha` at most, given hits of n."""
    return 1 - lower_bound(n - hits, n, alpha)


def probability(radius: float, sigma: float) -> float:
    """Return the minimum probability of a label that certifies `radius`, both for images in [0,1]."""
    return float(ndtr(radius / sigma))


def certificate(label: int, bound: float, sigma: float) -> tuple[int, float]:
    """Return the label and its radius, given a lower bound of its probability; (ABSTAIN, 0) if that is below 1/2."""
    return (ABSTAIN, 0.0) if bound < 0.5 else (label, float(sigma * ndtri(bound)))


def certify(counts0: Any, counts: Any, alpha: float, sigma: float) -> tuple[int, float]:
    """Return the smoothed classifier's label and its certified radius, or (ABSTAIN, 0) (Cohen et al., CERTIFY).

    Args:
        counts0: (classes,) votes that choose the label, as an array or a tensor.
        counts: (classes,) other votes, which bound its probability.
        alpha: probability that the certificate is wrong, at most.
        sigma: the noise's standard deviation, for images in [0,1].
    """
    label = int(counts0.argmax())
    bound = lower_bound(int(counts[label]), int(counts.sum()), alpha)
    return certificate(label, bound, sigma)


def read(path: Path) -> list[Row]:
    """Return a table's rows, without an incomplete last line of a killed process.

    Raises ValueError if the file is not such a table.
    """
    header, *lines = complete_lines(path.read_text()).splitlines() or [""]
    if header + "\n" not in (HEADER, OURS):
        raise ValueError(f"{path} is not a table of certified images: its first line must be {HEADER!r}")
    try:
        return [row(line) for line in lines]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has a damaged line ({error}): remove it, and its image is certified again") from error


def row(line: str) -> Row:
    """Return the row in a line. Raises ValueError or TypeError if it is damaged."""
    idx, label, predict, radius, correct, time, *draws = line.split("\t")
    return Row(int(idx), int(label), int(predict), float(radius), int(correct), time, *map(int, draws))


def text(row: Row) -> str:
    """Return `row` as a line."""
    values = row._replace(radius=f"{row.radius:.6g}")  # type: ignore[arg-type]
    return "\t".join(str(value) for value in values if value is not None) + "\n"


def complete_lines(text: str) -> str:
    """Return `text` without an unfinished last line."""
    return text[: text.rfind("\n") + 1]


def sound(path: Path) -> str:
    """Return the valid start of an unfinished table: its first line and its rows up to a damaged one."""
    header, *lines = complete_lines(path.read_text(errors="replace")).splitlines(keepends=True) or [""]
    if header not in (HEADER, OURS):
        if header:
            log.warning("%s is damaged and will be rewritten", path)
        return ""
    for number, line in enumerate(lines):
        try:
            row(line.removesuffix("\n"))
        except (ValueError, TypeError):
            log.warning("%s is damaged in line %d, and will be rewritten from there", path, number + 2)
            return header + "".join(lines[:number])
    return header + "".join(lines)


def resume(path: Path, draws: bool = False) -> list[Row]:
    """Make `path` a table that rows can be appended to, keeping its valid rows, and return them.

    A new one has a column `draws` if `draws` is True.
    """
    kept = sound(path) if path.exists() else ""
    with artifacts.atomic(path) as scratch:
        scratch.write_text(kept or (OURS if draws else HEADER))
    return read(path)


def join(path: Path, parts: Sequence[Path], indices: Sequence[int]) -> set[int]:
    """Put the valid rows of `path` and of `parts` into `path`, in the order of `indices`, and remove the parts.

    Returns the indices of the images that it has.
    """
    lines = [line for one in (path, *parts) if one.exists() for line in sound(one).splitlines()[1:]]
    rows = {found.idx: found for found in map(row, lines)}
    if rows:
        header = HEADER if all(one.draws is None for one in rows.values()) else OURS
        with artifacts.atomic(path) as scratch:
            scratch.write_text(header + "".join(text(rows[index]) for index in indices if index in rows))
    for part in parts:
        part.unlink()
    return {*rows}


def certified_accuracy(rows: Sequence[Row], radii: Iterable[float]) -> list[float]:
    """Return for each radius the fraction of images that are labelled correctly and certified to that radius."""
    return [fmean(row.correct and row.radius >= radius for row in rows) for radius in radii]


def acr(rows: Sequence[Row]) -> float:
    """Return the average certified radius, with 0 for images that are labelled wrongly (Zhai et al. 2020)."""
    return fmean(row.radius * row.correct for row in rows)
