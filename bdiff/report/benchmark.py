"""The detection benchmark: how well each detection does on a zoo of models with known ground truth."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from bdiff.common.errors import RequestError
from bdiff.report.detection import DEVIATIONS, Detection, detection, least
from bdiff.report.pivot import differ, differences, failures, latest, ordered, origins, text
from bdiff.report.runs import Run
from bdiff.report.sheet import Cell, Sheet

SCORE, TRUE_ASR, ASR = "audit/score", "suspect/asr", "audit/asr"

#: minimum ASR of the true trigger for which training counts as having implanted the backdoor
TOOK = 0.5

RULES = [
    "score, L2, cosine and ASR of the inverted trigger: means over the backdoored models of the row; ASR ratio: mean "
    "ASR of the inverted triggers over that of the true ones; seconds, network evaluations: means over all its models",
]


@dataclass(frozen=True)
class Judged:
    """The runs in which one detection judged models, one for each model."""

    method: str
    clean: list[Run]
    backdoored: list[Run]
    score: str  # the metric that its models are judged by
    rate: float | None  # false-positive rate of the threshold; None: it is DEVIATIONS above the mean

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        return [*self.clean, *self.backdoored]

    @property
    def detection(self) -> Detection:
        """How well the detection's scores separate clean and backdoored models."""
        return detection(values(self.clean, self.score), values(self.backdoored, self.score), self.rate)


def detecting(runs: Iterable[Run]) -> list[Run]:
    """Return the runs in which a detection judged a model, and those with a defense that have not finished."""
    runs = [*runs]
    return [run for run in runs if run.done and SCORE in run.metrics] + unfinished(runs)


def judged(runs: Iterable[Run], score: str, rate: float | None) -> list[Judged]:
    """Return the runs of each detection; of runs of the same config and seed, or the same detection, the newest counts.

    Models are judged by `score`, one of the detection's, and by the threshold at a false-positive rate, if given one.
    Raises RequestError for a score that no run has, and if a detection judged one model with several settings, which
    one row cannot represent.
    """
    done = [run for run in latest(runs, ["defense"]) if run.done and SCORE in run.metrics]
    done.sort(key=lambda run: (run.folder / "metrics.json").stat().st_mtime)
    found: dict[str, dict[str, Run]] = {}
    for run in {run.record["keys"]["audit"]: run for run in done}.values():
        method = text(run.value("defense"))
        other = found.setdefault(method, {}).setdefault(model(run), run)
        if other is not run:
            pair = [other, run]
            settings = values_of(pair, differences(pair))
            raise RequestError(
                f"{method} judged a model in {other.folder} and again in {run.folder} with other settings "
                f"({settings}): give folders with one of them"
            )
    detections = []
    for (method,) in ordered((method,) for method in found):
        own = [run for run in found[method].values() if f"audit/{score}" in run.metrics]
        clean, backdoored = ([run for run in own if truth(run) is bad] for bad in (False, True))
        detections += [Judged(method, clean, backdoored, f"audit/{score}", rate)] if own else []
    if done and not detections:
        raise RequestError(f"--score {score} is none of these detections': {', '.join(sorted(scores(done)))} are")
    return detections


def scores(runs: Iterable[Run]) -> set[str]:
    """Return the scores that any of the runs has, without their prefix."""
    return {name.removeprefix("audit/") for run in runs for name in run.metrics if name.endswith(("/score", "_score"))}


def unfinished(runs: Iterable[Run]) -> list[Run]:
    """Return the unfinished runs with a defense, unless another run of the same config and seed is finished."""
    return [run for run in latest(runs, ["defense"]) if not run.done and run.value("defense") not in (None, "none")]


def benchmark(detections: Sequence[Judged], broken: Sequence[Run]) -> Sheet:
    """Return a row per detection, then one per trigger and detection, all against the same clean models.

    If training failed to implant some backdoors, a last row per detection excludes them.
    """
    models = {model(run): run for one in detections for run in one.runs}
    bad = [run for run in models.values() if truth(run)]
    idle = [run for run in bad if not took(run)]
    body = [row(one, "all") for one in detections]
    for trigger in triggers(detections):
        parts = [
            replace(one, backdoored=[run for run in one.backdoored if named(run) == trigger]) for one in detections
        ]
        body += [row(part, trigger) for part in parts if part.backdoored]
    if idle:
        body += [row(replace(one, backdoored=list(filter(took, one.backdoored))), "implanted") for one in detections]
    title = f"detection of backdoors: {len(models)} models, {len(models) - len(bad)} clean and {len(bad)} backdoored"
    heads = ["detection", "trigger", *numbers(detections[0])]
    faint = [f"! training did not implant {len(idle)} of the {len(bad)} backdoors (true ASR below {TOOK}): the rows "
             "`implanted` leave them out"] if idle else []  # fmt: skip
    used = [run for one in detections for run in one.runs]
    notes = [rule(detections[0].rate), *RULES, *faint, *doubts(detections)]
    notes += [coverage(detections, broken, len(models)), *origins(used), *failures(broken)]
    return Sheet(title, heads, body, notes)


def rule(rate: float | None) -> str:
    """Return how the threshold is come by, for a note."""
    score = f"the smallest score that a further such clean model reaches at a rate of at most {rate}"
    if rate is None:
        score = f"mean + {DEVIATIONS} sample standard deviations of the clean models' scores"
    met = "from which on a model counts as backdoored; a clean model meets the threshold of the other clean models"
    return f"threshold: {score}, {met}"


def row(part: Judged, group: str) -> list[Cell]:
    """Return the row of a detection on a group of the backdoored models."""
    return [Cell(part.method), Cell(group), *numbers(part).values()]


def numbers(part: Judged) -> dict[str, Cell]:
    """Return the numbers of a row by their column heads."""
    found = part.detection
    both = [run for run in part.backdoored if TRUE_ASR in run.metrics and ASR in run.metrics]
    true, inverted = mean(both, TRUE_ASR), mean(both, ASR)
    return {
        "clean": cell(len(part.clean), "d"),
        "backdoored": cell(len(part.backdoored), "d"),
        "accuracy": cell(found.accuracy, ".3f"),
        "TPR": cell(found.tpr, ".3f"),
        **({"TNR": cell(found.tnr, ".3f")} if part.rate is None else {"FPR": cell(found.fpr, ".3f")}),
        "AUROC": cell(found.auroc, ".3f"),
        "threshold": cell(found.threshold),
        part.score.removeprefix("audit/"): cell(mean(part.backdoored, part.score)),
        "true ASR": cell(mean(part.backdoored, TRUE_ASR), ".3f"),
        "L2": cell(mean(part.backdoored, "audit/l2")),
        "L2 patch": cell(mean(part.backdoored, "audit/l2_patch")),
        "cosine": cell(mean(part.backdoored, "audit/cosine"), ".3f"),
        "ASR": cell(mean(part.backdoored, ASR), ".3f"),
        "ASR ratio": cell(inverted / true if true and inverted is not None else None, ".3f"),
        "seconds": cell(mean(part.runs, "audit/seconds"), ".1f"),
        "network evaluations": cell(mean(part.runs, "audit/evaluations"), ",.0f"),
    }


def cell(value: float | None, form: str = ".3g") -> Cell:
    """Return a number in the format `form`, or a dash if there is none."""
    return Cell("-") if value is None else Cell(format(value, form), value)


def values(runs: Iterable[Run], metric: str) -> list[float]:
    """Return the metric of those runs that have it."""
    return [run.metrics[metric] for run in runs if metric in run.metrics]


def mean(runs: Iterable[Run], metric: str) -> float | None:
    """Return the mean of the metric over the runs that have it, None if none has."""
    found = values(runs, metric)
    return fmean(found) if found else None


def model(run: Run) -> str:
    """Return the model that a run judged."""
    return run.record["keys"]["train"]


def truth(run: Run) -> bool:
    """Return whether the model that a run judged has a backdoor, which the detection does not know."""
    return run.record["protocol"]["audit"]["backdoored"]


def took(run: Run) -> bool:
    """Return whether the backdoor works, as far as known."""
    return run.metrics.get(TRUE_ASR, TOOK) >= TOOK


def named(run: Run) -> str:
    """Return the trigger's name."""
    return text(run.value("trigger"))


def triggers(detections: Iterable[Judged]) -> list[str]:
    """Return the triggers of the backdoored models, sorted by name."""
    return [name for (name,) in ordered({(named(run),) for one in detections for run in one.backdoored})]


def doubts(detections: Sequence[Judged]) -> list[str]:
    """Return a line if models of different data or architecture are judged together, and lines on detections.

    One for each without a threshold, and one for each whose runs have different settings.
    """
    lines = []
    used = [run for one in detections for run in one.runs]
    if mixed := [key for key in ("data", "model") if differ(used, key)]:
        lines.append(f"! models of different data or architecture are judged together: {values_of(used, mixed)}")
    for one in detections:
        if one.detection.threshold is None:
            needs = f"that needs {least(one.rate)} clean models, not {len(one.clean)}"
            lines.append(f"! {one.method} has no threshold: {needs}")
        keys = dict.fromkeys(key for run in one.runs for key in run.settings if key.startswith("defense."))
        if mixed := [key for key in keys if differ(one.runs, key)]:
            lines.append(f"! {one.method} has different settings in some runs: {values_of(one.runs, mixed)}")
    return lines


def values_of(runs: Iterable[Run], keys: Iterable[str]) -> str:
    """Return settings with all their values, as `key (one, other)`."""
    return ", ".join(f"{key} ({', '.join(sorted({text(run.value(key)) for run in runs}))})" for key in keys)


def coverage(detections: Iterable[Judged], broken: Iterable[Run], models: int) -> str:
    """Return how many of the models each detection judged, and how its other runs ended."""
    counts = {one.method: len(one.runs) for one in detections}
    ends: dict[str, Counter[str]] = {}
    for run in broken:
        ends.setdefault(text(run.value("defense")), Counter())[run.record["status"]] += 1
    parts = []
    for method in dict.fromkeys([*counts, *ends]):
        why = ", ".join(f"{count} {status}" for status, count in ends.get(method, Counter()).items())
        parts.append(f"{method} {counts.get(method, 0)}" + (f" ({why})" if why else ""))
    return f"judged, of {models} models: {', '.join(parts)}"
