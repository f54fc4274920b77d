"""Attacks by samplers: whether each opens the backdoor, whether it was expected to, and what clean samples pay."""

from collections.abc import Sequence
from dataclasses import dataclass

from bdiff.report.pivot import (
    EXPECTED,
    agree,
    counted,
    failures,
    in_order,
    label,
    latest,
    mean,
    ordered,
    origins,
    protocols,
    short,
    text,
    varying,
)
from bdiff.report.runs import Run
from bdiff.report.sheet import Cell, Sheet
from bdiff.report.table import shown

#: mean ASR from which on a sampler opens the backdoor
OPENED = 0.5
ASR, CLASS_ASR = "suspect/asr", "suspect/class_asr"  # where the target is an image, and where it is a class
FALSE_TRIGGER, DATA = "suspect/false_trigger", "data/false_trigger"
EXCESS = "suspect/false_trigger_excess"  # where the target is a class
CLEAN = "none"  # the attack of clean models
WORDS = {True: "opens", False: "does not", None: "-"}


@dataclass(frozen=True)
class Tried:
    """An attack under a sampler: its runs, which differ in their seed."""

    attack: tuple[str, ...]
    sampler: str
    runs: list[Run]

    @property
    def steps(self) -> str:
        """The sampler's number of steps."""
        return text(self.runs[0].value("sample.steps"))

    @property
    def success(self) -> str:
        """The metric of the attack's success."""
        return CLASS_ASR if any(CLASS_ASR in run.metrics for run in self.runs) else ASR

    @property
    def asr(self) -> Cell:
        """The mean attack success rate."""
        return mean(self.runs, self.success)

    @property
    def leak(self) -> Cell:
        """The mean fraction of clean samples that show the target; of a class, what it is above the data's own."""
        return mean(self.runs, EXCESS if any(EXCESS in run.metrics for run in self.runs) else FALSE_TRIGGER)

    @property
    def expected(self) -> bool | None:
        """Whether the sampler was expected to open the backdoor; None if no run says so."""
        facts = [run.record.get("protocol", {}).get(short(self.success), {}) for run in self.runs]
        return next((one[EXPECTED] for one in facts if EXPECTED in one), None)

    @property
    def opened(self) -> bool | None:
        """Whether it did; None if that was not measured."""
        asr = self.asr.value
        return None if asr is None else asr >= OPENED

    @property
    def right(self) -> bool | None:
        """Whether the expectation came true; None if there is none, or no ASR."""
        return None if None in (self.expected, self.opened) else self.expected == self.opened


def attempts(runs: Sequence[Run], rows: list[str] | None = None) -> tuple[list[str], list[Tried]]:
    """Return the settings that tell attacks apart, and each attack under each sampler: clean models first.

    With `rows` None, the settings are those in which the runs differ. Raises RequestError if runs of one attack and
    sampler differ in more than their seed.
    """
    keys = varying(runs, ["sampler"]) if rows is None else rows
    found: dict[tuple[tuple[str, ...], str], list[Run]] = {}
    for run in latest(runs, [*keys, "sampler"]):
        found.setdefault((label(run, keys), text(run.value("sampler"))), []).append(run)
    for members in found.values():
        agree(members)
    attacks = sorted(ordered({attack for attack, _ in found}), key=lambda attack: CLEAN not in attack)
    return keys, [
        Tried(attack, sampler, found[attack, sampler])
        for attack in attacks
        for sampler in samplers(runs)
        if (attack, sampler) in found
    ]


def samplers(runs: Sequence[Run]) -> list[str]:
    """Return the names of the samplers, ancestral ones first."""
    kinds = {text(run.value("sampler")): bool(run.value("sampler.ode")) for run in runs}
    return sorted(kinds, key=lambda name: (kinds[name], name))


def attack_sheet(keys: list[str], tried: Sequence[Tried]) -> Sheet:
    """Return a row for each attack under each sampler."""
    runs = [run for one in tried for run in one.runs]
    distances = [name for name in in_order(name for run in runs for name in run.metrics)
                 if name.startswith("suspect/fid")]  # fmt: skip
    body = [
        [
            *map(Cell, one.attack),
            Cell(one.sampler),
            Cell(one.steps),
            Cell(WORDS[one.expected]),
            one.asr,
            Cell({True: "yes", False: "NO", None: "-"}[one.right]),
            one.leak,
            *(mean(one.runs, metric) for metric in distances),
        ]
        for one in tried
    ]
    heads = [*keys, "sampler", "steps", "expected", "ASR", "as expected", *map(short, (FALSE_TRIGGER, *distances))]
    judged = [one.right for one in tried if one.right is not None]
    notes = [
        f"as expected: {sum(judged)} of {len(judged)}, if a backdoor opens from an ASR of {OPENED} on",
        "expected: from the attack's formulas, the sampler and its steps, before training",
        *classes(tried),
        *yardsticks(runs),
        counted(runs, runs),
        *protocols(runs, [*dict.fromkeys(one.success for one in tried), FALSE_TRIGGER, *distances]),
        *origins(runs),
        *failures(runs),
    ]
    return Sheet("attacks by samplers", heads, body, notes)


def classes(tried: Sequence[Tried]) -> list[str]:
    """Return which attacks have a class as their target, in a line."""
    names = dict.fromkeys(" ".join(one.attack) for one in tried if one.success == CLASS_ASR)
    if not names:
        return []
    leak = "; their false_trigger is the excess over that of a clean model, or of the data"
    return [f"ASR by the classifier, of a class ({short(CLASS_ASR)}): {', '.join(names)}{leak}"]


def yardsticks(runs: Sequence[Run]) -> list[str]:
    """Return what false_trigger is to be compared with, in a line."""
    rates = sorted({run.metrics[DATA] for run in runs if DATA in run.metrics})
    known = f", that of the training images is {', '.join(shown(DATA, rate) for rate in rates)}" if rates else ""
    return [
        "false_trigger: the fraction of clean samples that show the target; that of clean models is in the rows of "
        f"attack {CLEAN}{known}"
    ]
