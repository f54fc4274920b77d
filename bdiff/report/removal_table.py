"""The table of one run's removal: what was measured of the model before and after it."""

from collections.abc import Mapping

from bdiff.report.pivot import in_order, short
from bdiff.report.sheet import Cell, Sheet
from bdiff.report.table import shown

SHOWN = ("asr", "class_asr", "false_trigger", "fid", "fid_classifier")
#: the rows, by what their metrics begin with
MODELS = {"suspect": "before", "repaired": "after the removal"}


def removal_tables(metrics: Mapping[str, float]) -> list[Sheet]:
    """Return the table of a run's removal, as the only one; none if it had no removal.

    The last column has the distance of clean samples to the data, if it was measured, as a multiple of the suspect's.
    """
    measures = [short(name) for name in in_order(metrics) if name.startswith("suspect/")]
    measures = [what for what in measures if what in SHOWN and f"repaired/{what}" in metrics]
    if not measures:
        return []
    distance = next((what for what in measures if what.startswith("fid")), None)
    rows = []
    for who, words in MODELS.items():
        values = {what: metrics[f"{who}/{what}"] for what in measures}
        row = [Cell(words), *(Cell(shown(what, value), value) for what, value in values.items())]
        if distance:
            ratio = values[distance] / metrics[f"suspect/{distance}"]
            row.append(Cell(f"{ratio:.2f}", ratio))
        rows.append(row)
    heads = ["", *measures, *([f"{distance} ratio"] if distance else [])]
    return [Sheet("before and after the removal", heads, rows, [])]
