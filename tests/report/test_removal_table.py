"""The table of a removal: what was measured of both models, and the distance as a multiple of the suspect's."""

import pytest

from bdiff.report.removal_table import removal_tables

METRICS = {
    "suspect/asr": 0.98, "suspect/asr_se": 0.01, "suspect/false_trigger": 0.004, "suspect/fid_classifier": 4.0,
    "suspect/mse": 0.002, "repaired/asr": 0.02, "repaired/asr_se": 0.01, "repaired/false_trigger": 0.0,
    "repaired/fid_classifier": 5.0, "audit/asr": 0.5, "data/false_trigger": 0.0,
}  # fmt: skip


def test_both_models_stand_below_each_other():
    (sheet,) = removal_tables(METRICS)
    assert sheet.heads == ["", "asr", "false_trigger", "fid_classifier", "fid_classifier ratio"]
    assert [[cell.text for cell in row] for row in sheet.rows] == [
        ["before", "0.980", "0.004", "4.000", "1.00"],
        ["after the removal", "0.020", "0.000", "5.000", "1.25"],
    ]


@pytest.mark.parametrize("kept", ["suspect/", "repaired/", ""])
def test_what_only_one_model_has_is_left_out(kept):
    found = {name: value for name, value in METRICS.items() if name.startswith(kept) and "fid" not in name}
    tables = removal_tables(found)
    assert [sheet.heads for sheet in tables] == ([] if kept else [["", "asr", "false_trigger"]])
