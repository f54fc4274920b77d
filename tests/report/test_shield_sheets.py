"""The tables of many runs with a shield, against rows, means and deviations worked out by hand."""

from pathlib import Path

import pytest
from fake_runs import settings, write_run
from fake_shields import CERTIFIED, PURIFIED, write_shielded

from bdiff.common.errors import RequestError
from bdiff.report.runs import find
from bdiff.report.sheet import Cell, Sheet
from bdiff.report.shields import shields


def tables(folder: Path, *rows: str) -> list[Sheet]:
    """The tables of all runs below `folder`, by the settings named or by those that tell the runs apart."""
    return shields(find([folder]), [*rows] or None)


def texts(sheet: Sheet) -> list[list[str]]:
    """What the rows of a table show."""
    return [[cell.text for cell in row] for row in sheet.rows]


def test_every_setting_has_the_shields_rows_with_means_over_seeds(tmp_path):
    for t in (20, 8):
        for seed, asr in enumerate((0.5, 0.7)):  # mean .6, variance (.01 + .01) / 1 = .02
            found = PURIFIED | {"shield/asr": asr + t / 100}
            if t == 8:
                found |= {"shield/adaptive/accuracy": 0.25, "shield_ensemble/triggered_adversarial/accuracy": 0.5}
            write_shielded(tmp_path / f"{t}-{seed}", found, seed=seed, typed={"t": t})
    (sheet,) = tables(tmp_path)
    assert sheet.title == "accuracy behind the shield by defense.t"
    assert sheet.heads == ["defense.t", "shield", "clean", "triggered + adversarial", "adaptive", "ASR"]
    same = " ± 0.000 (n=2)"
    assert texts(sheet) == [
        ["8", "no shield", f"1.000{same}", "-", "-", "0.100 ± 0.000 (n=2)"],
        ["8", "shield with the clean model", f"0.900{same}", "-", "-", "0.200 ± 0.000 (n=2)"],
        ["8", "shield with the suspect", f"0.800{same}", "-", f"0.250{same}", "0.680 ± 0.141 (n=2)"],
        ["8", "shield with both models", "-", f"0.500{same}", "-", "-"],
        ["20", "no shield", f"1.000{same}", "-", "-", "0.100 ± 0.000 (n=2)"],
        ["20", "shield with the clean model", f"0.900{same}", "-", "-", "0.200 ± 0.000 (n=2)"],
        ["20", "shield with the suspect", f"0.800{same}", "-", "-", "0.800 ± 0.141 (n=2)"],
    ]  # fmt: skip
    cell = sheet.rows[2][-1]
    assert (cell.value, cell.std, cell.n) == (pytest.approx(0.68), pytest.approx(0.02**0.5), 2)
    assert sheet.rows[0][3] == Cell("-", n=0)  # so that csv gives it the columns of a mean
    assert sheet.notes[0] == "4 runs; mean ± sample standard deviation over n seeds"


def test_certified_runs_have_a_row_per_input_and_a_column_per_radius(tmp_path):
    write_shielded(tmp_path / "low", CERTIFIED, "certification", typed={"sigma": 0.25})
    more = {"certified_repaired/triggered/acc@10": 0.125, "certified_repaired/triggered/acc@2": 0.25}
    write_shielded(tmp_path / "high", CERTIFIED | more, "certification", typed={"sigma": 0.5})
    (sheet,) = tables(tmp_path)
    assert sheet.title == "certified accuracy at L2 radii, images in [0,1] by defense.sigma"
    assert sheet.heads == ["defense.sigma", "shield", "input", "acc@0", "acc@2", "acc@10", "ACR"]
    own = [
        ["no shield", "clean", "0.100", "-", "-", "0.010"],
        ["shield with the suspect", "clean", "0.900", "-", "-", "0.500"],
        ["shield with the suspect", "triggered", "0.200", "-", "-", "0.050"],
    ]
    assert texts(sheet) == [
        *(["0.25", *row] for row in own),
        *(["0.5", *row] for row in own),
        ["0.5", "shield with the suspect after the removal", "triggered", "-", "0.250", "0.125", "-"],
    ]


def test_a_shield_of_a_plugin_is_known_by_what_it_measures(tmp_path):
    write_shielded(tmp_path / "own", PURIFIED, typed={"_target_": "bdiff_sieve.sieve.Sieve"})
    (sheet,) = tables(tmp_path)
    assert texts(sheet)[2][-1] == "0.700"


def test_each_table_has_the_settings_of_its_own_runs(tmp_path):
    for t in (8, 20):
        write_shielded(tmp_path / f"t{t}", PURIFIED, typed={"t": t})
    write_shielded(tmp_path / "sigma", CERTIFIED, "certification", typed={"sigma": 0.25})
    write_run(tmp_path / "plain", {"asr": 1.0}, settings(), choices={"defense": "none"})
    pure, certain = tables(tmp_path)
    assert pure.heads[0] == "defense.t" and certain.heads[0] == "name"  # nothing tells a single run apart
    assert pure.notes[0] == "2 runs" and certain.notes[0] == "1 run"
    pure, certain = tables(tmp_path, "trigger", "defense.t")
    assert pure.heads[:3] == ["trigger", "defense.t", "shield"] and certain.heads[:2] == ["trigger", "shield"]
    assert [row[:2] for row in texts(pure)[::3]] == [["box", "8"], ["box", "20"]]


def test_of_runs_of_one_config_the_newest_counts(tmp_path):
    write_shielded(tmp_path / "old", PURIFIED | {"shield/asr": 0.125}, age=60)
    write_shielded(tmp_path / "new", PURIFIED | {"shield/asr": 0.875})
    (sheet,) = tables(tmp_path)
    assert texts(sheet)[2][-1] == "0.875" and sheet.notes[0] == "1 run, 1 more of the same config and seed left out"


def test_different_runs_of_one_setting_are_an_error_that_names_the_key(tmp_path):
    for t in (8, 20):
        write_shielded(tmp_path / f"t{t}", PURIFIED, typed={"t": t})
    with pytest.raises(RequestError, match=r"2 runs belong to one cell but differ in defense\.t \(20, 8\)"):
        tables(tmp_path, "trigger")


@pytest.mark.parametrize(
    ("shield", "part", "strength", "found"),
    [("purification", "shield", "t", PURIFIED), ("certification", "certification", "sigma", CERTIFIED)],
)
def test_what_the_runs_share_is_reported_and_what_keeps_them_from_comparing_is_marked(
    shield, part, strength, found, tmp_path
):
    def write(name: str, value: int, **more) -> None:
        facts = {"images": 359, "classifier": {"accuracy": 0.99}, strength: value, "radii": [value]}
        facts |= {"tables": {"certified": f"cache/{value}"}, "adaptive": {"absent": "steps=0"}} | more
        write_shielded(tmp_path / name, found, shield, facts=facts, typed={strength: value})

    write("a", 8)
    assert tables(tmp_path)[0].notes[1:] == [f"protocol: {part} images=359, classifier.accuracy=0.99, {strength}=8"]
    write("b", 20)
    assert tables(tmp_path)[0].notes[1:] == [f"protocol: {part} images=359, classifier.accuracy=0.99"]
    write("c", 30, images=100)
    assert tables(tmp_path)[0].notes[1:] == [
        f"protocol: {part} classifier.accuracy=0.99",
        f"! protocols differ, and such numbers do not compare: {part}.images (359, 100)",
    ]


def test_how_the_entropy_check_fared_is_reported_for_each_setting(tmp_path):
    for t, tpr in ((8, 0.5), (20, 0.25)):
        write_shielded(tmp_path / f"t{t}", PURIFIED | {"strip/tpr": tpr, "strip/fpr": 0.0625}, typed={"t": t})
    write_shielded(tmp_path / "t30", PURIFIED, typed={"t": 30})
    start = "STRIP behind the shield with the suspect, defense.t="
    assert [note for note in tables(tmp_path)[0].notes if "STRIP" in note] == [
        f"{start}8: TPR 0.500, FPR 0.062", f"{start}20: TPR 0.250, FPR 0.062",
    ]  # fmt: skip


def test_runs_that_are_not_done_are_reported_below_the_last_table(tmp_path):
    write_shielded(tmp_path / "done", PURIFIED, typed={"t": 8})
    write_shielded(tmp_path / "again", {}, typed={"t": 8}, status="failed", error="fixed since")
    write_shielded(tmp_path / "live", {}, typed={"t": 20}, status="running")
    write_shielded(tmp_path / "broken", {}, "certification", status="failed", error="out of memory")
    (sheet,) = tables(tmp_path)
    assert len(sheet.rows) == 3
    assert sheet.notes[-2:] == [
        "not in the tables: 1 failed, 1 running",
        f"failed: {tmp_path / 'broken'}: out of memory",
    ]
    write_shielded(tmp_path / "certified", CERTIFIED, "certification", typed={"sigma": 1})
    pure, certain = tables(tmp_path)
    assert "out of memory" not in "".join(pure.notes) and "out of memory" in certain.notes[-1]


def test_without_a_shield_that_is_done_there_is_no_table(tmp_path):
    write_run(tmp_path / "plain", {"asr": 1.0}, settings(), choices={"defense": "none"})
    write_shielded(tmp_path / "live", {}, status="running")
    assert tables(tmp_path) == []
