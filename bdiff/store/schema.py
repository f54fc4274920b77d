"""The schema result/1: its fields, and what is wrong with a value. Torch-free; nothing here trusts what it reads."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bdiff.common.spelling import did_you_mean

SCHEMA = "result/1"
BIGGEST = 1e300  # of a number, which must stay finite in sums
NAME = 100  # characters of a name in a table
LONGEST = 60  # characters of a stranger's word within a message


@dataclass(frozen=True)
class Field:
    """The types of a field, its meaning, and what its values are limited to."""

    types: tuple[type, ...]
    says: str
    required: bool = True
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    form: tuple[str, str] | None = None  # a regular expression for the whole text, and the same in words
    of: type | None = None  # of a list's entries
    longest: float = math.inf  # characters of a text

    @property
    def spec(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        types = [one for one in self.types if one is not int or float not in self.types]
        names = " or ".join("a whole number" if one is int else named(one) for one in types)
        if self.of:
            names += f" of {named(self.of)}"
        return names + spell(self.least, self.most)


TEXT, OBJECT = (str,), (dict,)
TIME = (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", "a time such as 2026-01-31T12:00:00+0000")
HEX = ("[0-9a-f]{40}", "40 hex digits")
WORD = (r"\S[^\r\n]*", "a name, in one line")

#: the fields of every result
FIELDS = {
    "schema": Field(TEXT, f"is {SCHEMA}"),
    "config": Field(OBJECT, "the resolved config"),
    "commit": Field((str, type(None)), "of bdiff, 40 hex digits; null from a wheel", form=HEX),
    "version": Field(TEXT, "of bdiff"),
    "dirty": Field((bool, type(None)), "whether the code or conf/ had uncommitted changes; null without a commit"),
    "device": Field(TEXT, "name of the device that computed the numbers"),
    "protocol": Field(OBJECT, "what is needed to compare the numbers"),
    "provenance": Field(OBJECT, "the provenance of each stage that the numbers depend on, by its name"),
    "metrics": Field(OBJECT, "numbers by name"),
    "date": Field(TEXT, "when it was written, as 2026-01-31T12:00:00+0000", form=TIME),
}
#: further fields
MORE = {
    "cell": Field(OBJECT, "which attack, trigger, data, model, sampler and defense it is of", required=False),
    "name": Field(TEXT, "of the run or the benchmark", required=False),
    "command": Field(TEXT, "the command that repeats it", required=False),
    "overrides": Field((list,), "the words of the command that set options", required=False, of=str),
    "keys": Field(OBJECT, "the keys of the stages", required=False),
    "note": Field(TEXT, "anything that a reader should know", required=False),
    "source": Field(TEXT, "where the numbers come from", required=False),
}
#: roles of defenses, `none` without one
ROLES = ("none", "detection", "inputs", "removal", "sampling", "shield")
#: roles of defenses by what their metrics begin with; a detection that repairs has both kinds
PREFIXES = {
    "audit/": "detection",
    "inputs/": "inputs",
    "guarded/": "sampling",
    "shield/": "shield",
    "certified/": "shield",
    "repaired/": "removal",
}
#: the fields of `cell`
CELL = {
    "attack": Field(TEXT, form=WORD, longest=NAME, says="option of the group attack, none for a clean model"),
    "trigger": Field(TEXT, form=WORD, longest=NAME, says="option of the group trigger"),
    "target": Field(TEXT, form=WORD, longest=NAME, says="option of the group target"),
    "poison_rate": Field((int, float, type(None)), "fraction of poisoned images; null without one", least=0, most=1),
    "data": Field(TEXT, form=WORD, longest=NAME, says="option of the group data"),
    "model": Field(TEXT, form=WORD, longest=NAME, says="option of the group model"),
    "sampler": Field(TEXT, form=WORD, longest=NAME, says="option of the group sampler"),
    "steps": Field((int, type(None)), "of the sampler; null if unknown", least=1),
    "defense": Field(TEXT, form=WORD, longest=NAME, says="option of the group defense; none without one"),
    "role": Field(TEXT, "of the defense", choices=ROLES),
    "removal": Field(TEXT, form=WORD, says="option of defense/removal, of a detection with a repair", required=False),
    "seed": Field((int, type(None)), "of the run; null if unknown", least=0),
    "adaptive_to": Field((list,), "defenses that the attack knows and was made against", required=False, of=str),
}

#: what the provenance of a stage may say of it, beside more
STAGE = {
    "version": Field(TEXT, "of bdiff", required=False),
    "device": Field(TEXT, "name of the device that computed the stage", required=False),
    "precision": Field((str, type(None)), "of the network", required=False),
    "finished": Field(TEXT, "when", required=False),
    "seconds": Field((int, float), "over all attempts", required=False, least=0),
    "versions": Field(OBJECT, "of the libraries, by name", required=False),
}
CODE = {name: FIELDS[name] for name in ("commit", "dirty")}  # which belong to a version

#: metrics in [0,1], by the last part of the name without its `@`
FRACTIONS = ["asr", "class_asr", "class_precision", "false_trigger", "precision", "recall"]
FRACTIONS += ["accuracy", "acc", "auroc", "tpr", "fpr", "tnr", "input_tpr", "input_tnr", "flagged"]
#: metrics that are not negative, and such that are but for rounding
POSITIVE = ["mse", "lpips", "acr", "seconds", "seconds_per_input", "evaluations", "evaluations_per_input"]
DISTANCES = ["fid", "fid_classifier"]
#: the range of metrics
RANGES = dict.fromkeys(FRACTIONS, (0.0, 1.0)) | {"ssim": (-1.0, 1.0), "false_trigger_excess": (-1.0, 1.0)}
RANGES |= dict.fromkeys(POSITIVE, (0.0, math.inf)) | dict.fromkeys(DISTANCES, (-0.01, math.inf))


def metric_range(name: str) -> tuple[float, float]:
    """Return the least and the largest value of a metric named `who/what`."""
    return RANGES.get(name.rpartition("/")[2].partition("@")[0], (-math.inf, math.inf))


def misfits(found: Mapping[str, Any], fields: Mapping[str, Field], place: str, strict: bool | None) -> list[str]:
    """Return the fields that are missing, unknown or of a wrong value, a line each; `place` stands before their names.

    Unknown ones count with `strict`, those alone that are nearly a known one without it, and none if it is None.
    """
    lacking = [f"{place}{name} is missing: {field.spec}, {field.says}"
               for name, field in fields.items() if field.required and name not in found]  # fmt: skip
    wrong = [problem for name, field in fields.items() if name in found
             if (problem := value_problem(f"{place}{name}", found[name], field))]  # fmt: skip
    unknown = []
    for name in found.keys() - fields.keys() if strict is not None else ():
        hint = did_you_mean(name[:LONGEST], [one for one in fields if one not in found])
        if strict or hint:
            unknown.append(f"{place}{plain(name)} is unknown{hint or '; known are ' + ', '.join(fields)}")
    return [*lacking, *wrong, *sorted(unknown)]


def value_problem(name: str, value: Any, field: Field) -> str | None:
    """Return what is wrong with the value of a field, or None."""
    if type(value) not in field.types:
        return f"{name} is {kind(value)}, not {field.spec}: {field.says}"
    if isinstance(value, int | float) and not field.least <= value <= field.most:
        return f"{name} is {value!r:.60}, not {field.spec}: {field.says}"
    if isinstance(value, str) and field.choices and value not in field.choices:
        return f"{name} is {value!r:.60}, not {field.spec}: {field.says}"
    if isinstance(value, str) and field.form and not re.fullmatch(field.form[0], value):
        return f"{name} is {value!r:.60}, not {field.form[1]}"
    if isinstance(value, str) and len(value) > field.longest:
        return f"{name} has {len(value)} characters, not {field.longest} at most: {field.says}"
    if isinstance(value, list) and field.of and not all(type(one) is field.of for one in value):
        return f"{name} holds something else than {named(field.of)}: {field.says}"
    return None


def cell_problems(cell: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a `cell`, whose role has some of the `metrics`."""
    wrong = misfits(cell, CELL, "cell.", strict=True)
    if wrong:
        return wrong
    if (cell["defense"] == "none") != (cell["role"] == "none"):
        return ["cell.role must be none if cell.defense is, and only then"]
    own = [prefix for prefix, role in PREFIXES.items() if role == cell["role"]] or ["suspect/"]
    if not any(name.startswith(prefix) for name in metrics for prefix in own):
        return [f"metrics has none of the role {cell['role']}, whose names begin with {' or '.join(own)}"]
    return []


def time_problems(date: str) -> list[str]:
    """Return what is wrong with a time of the right form."""
    try:
        datetime.strptime(date, "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return [f"date is {date}, not a time that there is"] if re.fullmatch(TIME[0], date) else []
    return []


def metric_problems(metrics: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with numbers by name."""
    wrong = []
    for name, value in metrics.items():
        least, most = metric_range(name)
        if type(value) not in (int, float) or value != value or abs(value) > BIGGEST:
            wrong.append(f"metrics.{plain(name)} is {value!r:.60}, not a finite number")
        elif not least <= value <= most:
            wrong.append(f"metrics.{plain(name)} is {value!r:.60}, outside of {least:g} to {most:g}")
    return wrong


def protocol_problems(protocol: Mapping[str, Any], place: str = "protocol") -> list[str]:
    """Return what is wrong with a protocol: `marks`, wherever they stand, are a list of text."""
    wrong = []
    for name, value in protocol.items():
        if isinstance(value, dict):
            wrong += protocol_problems(value, f"{place}.{plain(name)}")
        elif name.rpartition(".")[2] == "marks" and not texts(value):
            wrong.append(f"{place}.marks is {value!r:.60}, not a list of text: doubts about the number")
    return wrong


def texts(value: Any) -> bool:
    """Return whether a value is a list of text."""
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def provenance_problems(provenance: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the provenance of stages."""
    wrong = []
    for stage, made in provenance.items():
        place = f"provenance.{plain(stage)}"
        if not isinstance(made, dict):
            wrong.append(f"{place} is {kind(made)}, not an object: what made the stage")
            continue
        wrong += misfits(made, STAGE | (CODE if "version" in made else {}), f"{place}.", strict=None)
        versions = made.get("versions")
        wrong += [f"{place}.versions.{plain(name)} is {kind(version)}, not text"
                  for name, version in (versions.items() if isinstance(versions, dict) else ())
                  if not isinstance(version, str)]  # fmt: skip
    return wrong


def plain(name: str) -> str:
    """Return a stranger's name for a message on a terminal: short, and without control characters."""
    return repr(name[:LONGEST])[1:-1]


def spell(least: float, most: float) -> str:
    """Return a range in words."""
    if math.isinf(least) and math.isinf(most):
        return ""
    return f" from {least:g} on" if math.isinf(most) else f" from {least:g} to {most:g}"


def kind(value: Any) -> str:
    """Return the JSON name of a value's type."""
    return named(type(value))


def named(of: type) -> str:
    """Return the JSON name of a type."""
    names = {str: "text", dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(of, "a number")
