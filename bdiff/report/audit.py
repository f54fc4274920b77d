"""What an audit comes to: a few lines, and a page with the pictures first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdiff.common.errors import few
from bdiff.report.page import duration, embed, write
from bdiff.report.plan import size
from bdiff.report.table import shown

#: by the verdict of audit.json
VERDICTS = {
    "flagged": "flagged as backdoored",
    "nothing found": "nothing found",
    "scores only": "no threshold holds for such a model: scores only",
}
#: what pictures show, by the end of their names
CAPTIONS = {
    "trigger": "Inverted trigger. What the detection found to add to the starting noise.",
    "inverted": "With it. What the model draws from noise with the inverted trigger added. The same picture again and "
    "again is what a backdoor looks like.",
    "clean": "Without it. The same noise, place for place, without the trigger.",
    "repaired_inverted": "After the removal, with the inverted trigger",
    "repaired_clean": "After the removal, without it",
}


def called(asked: str) -> str:
    """Return the last part of a model's name as it was asked for; of the folder that one is in, as in `.`, its own."""
    name = Path(asked).name
    return Path(asked).resolve().name if name in ("", "..") else name


def verdict(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the verdict over all methods: one that flags the model is enough."""
    found = {one["flagged"] for one in methods.values()}
    return "flagged" if True in found else "nothing found" if False in found else "scores only"


def chances(finding: Mapping[str, Any]) -> str:
    """Return what a method's verdict rests on: the threshold with its rate, or why there is none."""
    if finding["flagged"] is None:
        return finding["unflagged"] or "its threshold is null"
    return "; ".join([f"threshold {finding['threshold']:.3g}", *filter(None, [finding["basis"]])])


def audit_lines(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines of a finished audit, by what they are about."""
    model = record["model"]
    shape = "x".join(map(str, model["shape"]))
    lines = {
        "model": f"{model['name']}: {shape}, {model['weights'] / 1e6:.3g} M weights, predicts {model['prediction']}, "
        f"{model['schedule']['num_train_timesteps']} timesteps"
    }
    if model["class"] is not None:
        lines["class"] = f"{model['class']} of 0 to {model['classes'] - 1}: the others were not looked at (--class)"
    if model["strange"]:
        lines["weights"] = f"tensors of no layer: {some(model['strange'])}"
    if model["marks"]:
        lines["schedule"] = "; ".join(model["marks"])
    if model["unjudged"]:
        lines["others"] = f"weights that were not judged: {some(model['unjudged'])}"
    if model["unread"]:
        lines["files"] = f"not read, since they hold code or objects: {some(model['unread'])}"
    if model["remote"]:
        lines["hub"] = "only configs and weights were fetched: the repository's other files were not looked at"
    for name, found in record["methods"].items():
        lines[name] = f"{found['flag_by']} {shown(found['flag_by'], found['value'])}; {chances(found)}"
    if record["repaired"]:
        lines["repaired"] = f"{record['repaired']['folder']}: {repaired(record)}"
    return lines | {"verdict": VERDICTS[record["verdict"]], "page": record["page"]}


def repaired(record: Mapping[str, Any]) -> str:
    """Return how often the inverted trigger calls its picture up before and after a removal."""
    (found, *_), after = record["methods"].values(), record["repaired"]["metrics"]
    before, now = found["metrics"]["called_up"], after["called_up"]
    return f"its picture shows in {100 * before:.0f} % of samples from the trigger before, {100 * now:.0f} % after"


def some(names: Sequence[str]) -> str:
    """Return the first of several names."""
    return ", ".join(few(names, 4, "and {} more"))


def cost_line(seconds: float, most: float, unknown: bool) -> str:
    """Return what an audit will take, in a line."""
    more = " and more" if unknown else ""
    return f"this will take about {duration(seconds)}{more} here and {size(most)}; a killed audit goes on"


def write_audit_page(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write `folder`/report.html from an audit's record and the pictures in `folder`/figures; return its path."""
    pictures = {path.stem: embed(path) for path in sorted((folder / "figures").glob("*.png"))}
    groups = {name: of_method(name, pictures, len(record["methods"]) > 1) for name in record["methods"]}
    return write(
        folder / "report.html",
        "audit.html",
        title=called(record["model"]["name"]),
        record=record,
        words=VERDICTS[record["verdict"]],
        groups=groups,
        lines=audit_lines(record),
        chances=chances,
    )


def of_method(method: str, pictures: Mapping[str, Any], several: bool) -> list[tuple[str, str, Any]]:
    """Return a method's pictures in order, each with its kind, its caption and itself."""
    prefix = f"{method}_" if several else ""
    names = [(name, f"{prefix}{name}") for name in CAPTIONS]
    return [(name, CAPTIONS[name], pictures[own]) for name, own in names if own in pictures]
