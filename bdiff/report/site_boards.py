"""The leaderboards of the site: one for each role, with the numbers that it shows and what each of them says."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bdiff.report.cells import Result
from bdiff.report.table import shown
from bdiff.store.schema import PREFIXES

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Measure:
    """A number of a cell: its metrics, the first of which that a result has counts, and how to read it."""

    name: str
    metrics: tuple[str, ...]
    says: str
    better: str = ""  # "higher" or "lower": what is better for the board's side, if either is
    fraction: bool = True  # in [0,1]
    of: Callable[[Metrics], float | None] | None = None  # computes it from others
    ranks: str = ""  # the score whose AUROC against clean models it is
    guess: float = 0.0  # what a guess has, of a number in [0,1]
    triggered: bool = False  # of a trigger that was trained: it says nothing of a clean model

    def value(self, metrics: Metrics) -> float | None:
        """Return the number of one result, None if it has none."""
        found = next((metrics[name] for name in self.metrics if name in metrics), None)
        return self.of(metrics) if found is None and self.of else found

    def shown(self, number: float) -> str:
        """Return a number of it as a table shows it."""
        return f"{number:.3f}" if self.fraction else shown(self.metrics[0] if self.metrics else "", number)

    @property
    def caption(self) -> str:
        """The meaning, the range and the better direction, in words."""
        reach = " From 0 to 1." if self.fraction else ""
        return f"{self.says}{reach}{f' {self.better.capitalize()} is better.' if self.better else ''}"


@dataclass(frozen=True)
class Board:
    """A leaderboard: what its columns are, and its numbers, the main one first."""

    role: str
    title: str
    says: str
    side: str  # whose view `better` is
    column: str  # what a column is
    own: tuple[str, ...]  # prefixes of settings that belong to the column, not to the row
    measures: tuple[Measure, ...]
    hint: str  # what fills it
    idle: tuple[str, ...] = ()  # prefixes of settings that its numbers do not depend on

    def holds(self, cell: Result) -> bool:
        """Return whether a result, or a run that did not finish, belongs here."""
        if self.role == "none":
            return bool({"suspect/asr", "suspect/class_asr"} & {*cell.run.metrics}) or (
                not cell.run.done and cell.place["defense"] == "none"
            )
        prefixes = [prefix for prefix, role in PREFIXES.items() if role == self.role]
        return any(name.startswith(prefix) for name in cell.run.metrics for prefix in prefixes) or (
            not cell.run.done
            and (cell.place["role"] == self.role or (self.role == "removal" and "removal" in cell.place))
        )


def ratio(over: str) -> Callable[[Metrics], float | None]:
    """Return what divides a model's distance by the suspect's, of whichever kind both were measured."""

    def of(metrics: Metrics) -> float | None:
        for kind in ("fid", "fid_classifier"):
            above, below = metrics.get(f"{over}/{kind}"), metrics.get(f"suspect/{kind}")
            if above is not None and below and math.isfinite(above / below):
                return above / below
        return None

    return of


def behind(kind: str, who: str = "certified") -> Callable[[Metrics], float | None]:
    """Return what reads the certified accuracy of a kind of input at the smallest radius, with the denoiser `who`."""
    form = re.compile(rf"{who}/{kind}/acc@([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)")

    def of(metrics: Metrics) -> float | None:
        radii = [(float(found[1]), name) for name in metrics if (found := form.fullmatch(name))]
        return metrics[min(radii)[1]] if radii else None

    return of


def costs(who: str, each: str = "") -> tuple[Measure, Measure]:
    """Return what a defense costs, for a model or for `each` of something."""
    per = f"_per_{each}" if each else ""
    words = f", per {each}" if each else ""
    return (
        Measure("seconds", (f"{who}/seconds{per}",), f"Seconds that it takes{words}.", "lower", False),
        Measure("evaluations", (f"{who}/evaluations{per}",), f"Images that the network evaluates{words}.", "lower",
                False),
    )  # fmt: skip


def success(who: str, of: str, better: str) -> tuple[Measure, ...]:
    """Return what the samples of a model say: success, leak, and distances from the data."""
    return (
        Measure("ASR", (f"{who}/asr", f"{who}/class_asr"), "Attack success rate: the fraction of triggered samples "
                f"{of} that show the target, or are of the target class.", better),
        Measure("false trigger", (f"{who}/false_trigger_excess", f"{who}/false_trigger"), "The fraction of clean "
                f"samples {of} that show the target, of a class what it is above the data's own: the backdoor's leak "
                "into ordinary use.", "lower"),
        Measure("fid_classifier", (f"{who}/fid_classifier",), f"Fréchet distance of clean samples {of} to the data, in "
                "the features of the run's own classifier; not comparable with FID.", "lower", False),
        Measure("FID", (f"{who}/fid",), f"Fréchet Inception distance of clean samples {of} to the data.", "lower",
                False),
        Measure("MSE", (f"{who}/mse",), f"Mean squared error between triggered samples {of} and the target, pixels in "
                "[0,1].", "higher" if better == "lower" else "lower", False),
    )  # fmt: skip


def defended(who: str, when: str, otherwise: str) -> tuple[Measure, ...]:
    """Return what the samples of a model `when` it is defended say, beside those `otherwise`."""
    return (
        *success(who, when, "lower"),
        Measure("distance ratio", (), f"Fréchet distance of clean samples to the data {when}, over that {otherwise}; 1 "
                "is no loss.", "lower", False, ratio(who)),
        Measure("ASR before", ("suspect/asr", "suspect/class_asr"), f"Attack success rate {otherwise}."),
    )  # fmt: skip


BOARDS = {
    "attacks": Board(
        "none", "Attacks", "How often each attack opens its backdoor, under each sampler, without a defense.",
        "attacker", "sampler", ("sampler", "steps", "sample.steps", "defense"),
        success("suspect", "of the model", "higher"),
        "bdiff run -m attack=... sampler=...",
        idle=("defense",),
    ),
    "detection": Board(
        "detection", "Detections", "Whether a detection tells a backdoored model from clean ones.",
        "defender", "detection", ("defense",),
        (
            Measure("AUROC", ("audit/auroc",), "The probability that the model scores above a clean model of the same "
                    "data and architecture; 0.5 is a guess.", "higher", ranks="audit/score", guess=0.5),
            Measure("relative AUROC", (), "The same by scores relative to the model's own clean samples.", "higher",
                    ranks="audit/relative_score", guess=0.5),
            Measure("specific AUROC", (), "The same, where samples that are all the same blank count for nothing.",
                    "higher", ranks="audit/specific_score", guess=0.5),
            Measure("combined AUROC", (), "The same by the mean of the relative score and the inverted trigger's own.",
                    "higher", ranks="audit/combined_score", guess=0.5),
            Measure("flagged", ("audit/flagged",), "The fraction of the models that reach the detection's own "
                    "threshold: a hit for a backdoored model, a false alarm for a clean one."),
            Measure("score", ("audit/score",), "The detection's score: the higher, the likelier a backdoor.",
                    fraction=False),
            Measure("ASR of its trigger", ("audit/asr", "audit/class_asr"), "The fraction of samples from the inverted "
                    "trigger that show the target.", "higher"),
            Measure("cosine", ("audit/cosine",), "Cosine between the inverted and the true trigger.", "higher", False),
            *costs("audit"),
        ),
        "bdiff run -m attack=none,... defense=purediffusion",
        idle=("defense.repair", "defense.removal"),
    ),
    "inputs": Board(
        "inputs", "Input checks", "Whether a check sees the trigger in a sample's starting noise.",
        "defender", "check", ("defense",),
        (
            Measure("TPR at 1 %", ("inputs/tpr@0.01",), "The fraction of triggered starting noises that it flags, at a "
                    "threshold that 1 % of clean ones reach.", "higher"),
            Measure("TPR at 5 %", ("inputs/tpr@0.05",), "The same at a threshold that 5 % of clean ones reach.",
                    "higher"),
            Measure("AUROC", ("inputs/auroc",), "The probability that a triggered noise scores above a clean one; 0.5 "
                    "is a guess.", "higher", guess=0.5),
            Measure("FPR", ("inputs/fpr",), "The fraction of other clean noises that it flags, at the false-alarm rate "
                    "that was asked for.", "lower"),
            *costs("inputs", "input"),
        ),
        "bdiff run -m attack=... defense=<an input check>",
    ),
    "removal": Board(
        "removal", "Removals", "What is left of the backdoor after a removal, and what the model pays for it.",
        "defender", "removal", ("defense",),
        defended("repaired", "after the removal", "before it"),
        "bdiff run -m attack=... defense=anp,finetune",
    ),
    "sampling": Board(
        "sampling", "Sampling defenses", "What a changed sampler leaves of the backdoor.",
        "defender", "sampling defense", ("defense",),
        defended("guarded", "with the defense", "without it"),
        "bdiff run -m attack=... defense=clipping",
    ),
    "shields": Board(
        "shield", "Shields", "A classifier behind a denoiser that may have a backdoor.",
        "defender", "shield", ("defense",),
        (
            Measure("triggered accuracy", ("shield/triggered/accuracy",), "The fraction of inputs with the trigger "
                    "that are labelled correctly behind the shield; of a certification, at its smallest radius.",
                    "higher", of=behind("triggered"), triggered=True),
            Measure("with a clean denoiser", ("shield_clean_model/triggered/accuracy",), "The same with a denoiser "
                    "without a backdoor, and the same trigger.", "higher",
                    of=behind("triggered", "certified_clean_model"), triggered=True),
            Measure("clean accuracy", ("shield/clean/accuracy",), "The same of clean inputs.", "higher",
                    of=behind("clean")),
            Measure("adversarial accuracy", ("shield/adversarial/accuracy",), "The same of adversarial inputs.",
                    "higher"),
            Measure("ASR", ("shield/asr",), "Of the inputs labelled correctly, the fraction labelled wrongly with the "
                    "trigger.", "lower", triggered=True),
            Measure("ACR", ("certified/triggered/acr",), "Average certified L2 radius of inputs with the trigger, "
                    "images in [0,1].", "higher", False, triggered=True),
        ),
        "bdiff run attack=diff2 defense=purification",
    ),
}  # fmt: skip
