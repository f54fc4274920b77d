"""Tables of hand-made run folders, against means and deviations worked out by hand, in all four formats."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import settings, write_run

from bdiff.common.errors import RequestError
from bdiff.report.pivot import in_order, ordered, origins, pivot
from bdiff.report.runs import find
from bdiff.report.sheet import Cell, Sheet, to_csv, to_latex, to_md, to_rich
from bdiff.report.table import with_error

#: asr over the seeds 0, 1, 2 by trigger and poison rate; squared deviations worked out below
ASR = {
    ("box_4", 0.05): [0.1, 0.2, 0.6],  # mean .3, deviations .2 .1 .3: variance (.04 + .01 + .09) / 2 = .07
    ("box_4", 0.2): [0.25, 0.75],  # mean .5, variance (.0625 + .0625) / 1 = .125
    ("box_14", 0.05): [0.5],
}
MEANS = {
    ("box_4", 0.05): (0.3, 0.07**0.5, 3),
    ("box_4", 0.2): (0.5, 0.125**0.5, 2),
    ("box_14", 0.05): (0.5, None, 1),
}


@pytest.fixture
def grid(tmp_path) -> Path:
    """The runs of `ASR` with an MSE each, one failed one, and one place where nothing ran."""
    for (trigger, rate), values in ASR.items():
        for seed, asr in enumerate(values):
            run(tmp_path / f"{trigger}-{rate}-{seed}", {"asr": asr, "mse": asr / 1e4}, trigger, rate, seed)
    run(tmp_path / "multirun" / "broken", {}, "box_14", 0.2, status="failed", error="out of memory")
    return tmp_path


def run(folder: Path, metrics: dict, trigger: str = "box_14", rate: float = 0.1, seed: int = 0, **more) -> Path:
    """A run that was asked for by its trigger, poison rate and seed."""
    typed = (f"trigger={trigger}", f"attack.poison_rate={rate}", f"seed={seed}")
    more = {"typed": typed, "choices": {"trigger": trigger, "experiment": None}} | more
    return write_run(folder, metrics, settings(trigger, rate, seed), **more)


def test_a_cell_is_the_mean_over_seeds_with_its_sample_deviation(grid):
    sheet = pivot(find([grid]), ["trigger"], ["attack.poison_rate"], ["suspect/asr"])
    assert sheet.heads == ["trigger", "0.05", "0.2"]
    assert [row[0].text for row in sheet.rows] == ["box_4", "box_14"]
    shown = {("box_4", 0.05): sheet.rows[0][1], ("box_4", 0.2): sheet.rows[0][2], ("box_14", 0.05): sheet.rows[1][1]}
    for place, (mean, std, n) in MEANS.items():
        cell = shown[place]
        assert (cell.value, cell.std, cell.n) == (pytest.approx(mean), std and pytest.approx(std), n)
    assert shown["box_4", 0.05].text == "0.300 ± 0.265 (n=3)" and shown["box_14", 0.05].text == "0.500"
    assert sheet.rows[1][2] == Cell("failed", n=0)
    assert sheet.notes[0] == "7 runs; mean ± sample standard deviation over n seeds"
    assert any("broken" in note and "out of memory" in note for note in sheet.notes)


def test_what_was_typed_makes_the_rows(grid):
    sheet = pivot(find([grid]), None, [], ["suspect/asr", "suspect/mse"])
    assert sheet.heads == ["trigger", "attack.poison_rate", "asr", "mse"]
    assert [[cell.text for cell in row[:2]] for row in sheet.rows] == [
        ["box_4", "0.05"], ["box_4", "0.2"], ["box_14", "0.05"], ["box_14", "0.2"],
    ]  # fmt: skip
    assert pivot(find([grid]), None, ["trigger"], ["suspect/asr"]).heads == ["attack.poison_rate", "box_4", "box_14"]


def parsed(form: str, text: str) -> list[list[str]]:
    """The cells of a table read back from one of its formats, heads first."""
    if form == "csv":
        return list(csv.reader(io.StringIO(text)))
    if form == "md":
        lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
        assert all(set(cell) <= {"-", ":"} for cell in lines[1])
        return [lines[0], *lines[2:]]
    if form == "latex":
        assert r"\toprule" in text and r"\midrule" in text and r"\bottomrule" in text
        assert text.count("{") == text.count("}")
        inside = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        return [line.strip().removesuffix(r" \\").split(" & ") for line in inside.splitlines() if "&" in line]
    heads, _, body = text.partition("─")
    above, below = (line.split() for line in heads.rstrip().splitlines()[-2:])
    names = [below[0], *(" ".join(pair) for pair in zip(above, below[1:], strict=True))]
    rows = body.strip("─\n").split("\n\n")[0].splitlines()
    return [names, *(re.split(r"\s{3,}", row.strip()) for row in rows)]


@pytest.mark.parametrize(("form", "write"), [("rich", to_rich), ("md", to_md), ("latex", to_latex)])
def test_a_format_read_back_has_every_cell(form, write, grid):
    sheet = pivot(find([grid]), ["trigger"], ["attack.poison_rate"], ["suspect/asr", "suspect/mse"])
    found = parsed(form, write(sheet))
    assert found[0] == ["trigger", "0.05 asr", "0.05 mse", "0.2 asr", "0.2 mse"]
    first = ["box_4", "0.300 ± 0.265 (n=3)", "3e-05 ± 2.65e-05 (n=3)"]
    if form == "latex":
        times = r"$\times 10^{-5}$"
        first = [r"box\_4", r"0.300 $\pm$ 0.265 (n=3)", rf"3{times} $\pm$ 2.65{times} (n=3)"]
    assert found[1][:3] == first
    assert [cell.replace("\\_", "_") for cell in found[2]][::3] == ["box_14", "failed"] and len(found) == 3


def test_csv_has_mean_std_and_n_at_full_precision(grid):
    sheet = pivot(find([grid]), ["trigger"], ["attack.poison_rate"], ["suspect/asr"])
    heads, first, second = parsed("csv", to_csv(sheet))
    assert heads == ["trigger", *(f"{rate} {part}" for rate in (0.05, 0.2) for part in ("mean", "std", "n"))]
    assert first[0] == "box_4" and first[3::3] == ["3", "2"]
    assert [float(field) for field in first[1:3]] == pytest.approx([0.3, 0.07**0.5], rel=1e-15)
    assert second == ["box_14", "0.5", "", "1", "failed", "", "0"]
    assert parsed("csv", to_csv(replace(sheet, rows=[]))) == [[str(head) for head in sheet.heads]]  # all runs failed


def test_a_place_where_nothing_ran_one_that_is_not_done_and_one_that_lacks_the_number_are_seen(tmp_path):
    run(tmp_path / "a", {"asr": 0.5}, "box_4", 0.1)
    run(tmp_path / "b", {"mse": 0.5}, "box_14", 0.2)
    run(tmp_path / "c", {}, "box_14", 0.1, status="running")
    sheet = pivot(find([tmp_path]), ["trigger"], ["attack.poison_rate"], ["suspect/asr"])
    assert [[cell.text for cell in row] for row in sheet.rows] == [
        ["box_4", "0.500", "missing"], ["box_14", "running", "-"],
    ]  # fmt: skip


def test_of_runs_of_one_config_the_newest_that_is_done_counts(tmp_path):
    run(tmp_path / "old", {"asr": 0.1}, age=300)
    run(tmp_path / "new", {"asr": 0.9}, age=200)
    run(tmp_path / "newest", {}, age=100, status="failed", error="no")
    sheet = pivot(find([tmp_path]), None, [], ["suspect/asr"])
    assert sheet.heads[0] == "name"  # nothing tells them apart
    assert [[cell.text for cell in row] for row in sheet.rows] == [["run-box_14", "0.900"]]
    assert sheet.notes == ["1 run, 2 more of the same config and seed left out"]


def test_different_runs_in_one_cell_are_an_error_that_names_the_key(grid):
    with pytest.raises(RequestError, match=r"attack\.poison_rate \(0\.05, 0\.2\): add attack\.poison_rate to --rows"):
        pivot(find([grid]), ["trigger"], [], ["suspect/asr"])


def test_settings_that_nobody_typed_tell_runs_apart_too(tmp_path):
    for name, count in (("a", 10), ("b", 20)):
        config = settings(sample={"clip": False, "count": count})
        write_run(tmp_path / name, {"asr": 0.5}, config, choices={"trigger": "box_14"})
    assert pivot(find([tmp_path]), None, [], ["suspect/asr"]).heads == ["sample.count", "asr"]
    with pytest.raises(RequestError, match=r"differ in sample\.count \(10, 20\)"):
        pivot(find([tmp_path]), ["trigger"], [], ["suspect/asr"])


def test_a_group_stands_for_the_keys_it_brings(tmp_path):
    for trigger in ("box_4", "box_14"):
        write_run(tmp_path / trigger, {"asr": 0.5}, settings(trigger), choices={"trigger": trigger})
    assert pivot(find([tmp_path]), None, [], ["suspect/asr"]).heads == ["trigger", "asr"]


def test_protocols_are_reported_and_differences_marked(tmp_path):
    for name, count, mark in (("a", 12, ["fewer samples"]), ("b", 256, [])):
        protocol = {
            "images": count, "seed": 0, "asr": {"threshold": 0.05},
            "fid_classifier": {"sample_count": count, "extractor": "SmallCNN", "marks": mark},
        }  # fmt: skip
        config = settings(sample={"clip": False, "count": count})
        metrics = {"asr": 0.5, "fid_classifier": 1.0}
        write_run(tmp_path / name, metrics, config, typed=(f"sample.count={count}",), protocol=protocol)
    runs = find([tmp_path])
    assert pivot(runs, None, [], ["suspect/asr", "suspect/fid_classifier"]).notes[1:] == [
        "protocol: asr threshold=0.05; fid_classifier extractor=SmallCNN",
        "! protocols differ, and such numbers do not compare: images (12, 256); fid_classifier.sample_count (12, 256)",
        "! fid_classifier: fewer samples",
    ]
    assert "fid_classifier" not in "".join(pivot(runs, None, [], ["suspect/asr"]).notes)


def test_the_protocol_of_a_verdict_is_reported_without_what_is_of_the_model(tmp_path):
    for name, backdoored in (("a", False), ("b", True)):
        about = {"backdoored": backdoored, "threshold": 0.5, "classifier": {"key": "x"}, "precision": "bf16"}
        absent = {} if backdoored else {"absent": "no true trigger"}
        write_run(tmp_path / name, {}, settings(), typed=(f"attack={name}",), choices={"attack": name},
                  protocol={"audit": about | absent | {"marks": ["too few"]}})  # fmt: skip
    assert pivot(find([tmp_path]), ["attack"], [], ["audit/score"]).notes[1:] == [
        "protocol: audit threshold=0.5, precision=bf16",
        "! audit: too few",
    ]


def test_what_was_expected_is_no_difference_in_how_it_was_measured(tmp_path):
    for name, opens in (("ddpm", True), ("ddim", False)):
        protocol = {"asr": {"threshold": 0.05, "expected": opens}}
        more = {"choices": {"sampler": name}, "typed": (f"sampler={name}",), "protocol": protocol}
        write_run(tmp_path / name, {"asr": float(opens)}, settings(sampler={"name": name}), **more)
    notes = pivot(find([tmp_path]), None, [], ["suspect/asr"]).notes
    assert notes[1:] == ["protocol: asr threshold=0.05"]


def test_heads_name_the_key_of_a_bare_yes_or_no(tmp_path):
    for clip in (False, True):
        word = str(clip).lower()
        config = settings(sample={"clip": clip, "count": 256})
        write_run(tmp_path / word, {"asr": 0.5, "mse": 0.1}, config, typed=(f"sample.clip={word}",))
    sheet = pivot(find([tmp_path]), ["attack.poison_rate"], ["sample.clip"], ["suspect/asr", "suspect/mse"])
    assert sheet.heads[1:] == ["clip=false asr", "clip=false mse", "clip=true asr", "clip=true mse"]


def test_odd_characters_stay_what_they_are():
    sheet = Sheet("a_b & c", ["x|y"], [[Cell(r"50 % of {all} \ #1 ~ ^")]], ["note $5"])
    latex = to_latex(sheet)
    assert r"\caption{a\_b \& c}" in latex and r"note \$5" in latex
    assert r"50 \% of \{all\} \textbackslash{} \#1 \textasciitilde{} \textasciicircum{}" in latex
    assert r"| x\|y |" in to_md(sheet)
    assert "[bold]x" in to_rich(Sheet("t", ["h"], [[Cell("[bold]x")]], []))


def test_a_narrow_terminal_loses_nothing_and_keeps_numbers_whole():
    sheet = Sheet(
        "t", ["row", "mse ours"], [[Cell("a-long-name-of-a-row-of-a-table"), Cell("1.19e-05 ± 2e-06", 1.19e-05)]], []
    )
    narrow, wide = to_rich(sheet, 30), to_rich(sheet)
    assert max(map(len, narrow.splitlines())) < 45 < max(map(len, wide.splitlines()))
    assert "1.19e-05 ± 2e-06" in narrow and "a-long-name-of-a-row-of-a-table" in wide
    assert sorted(re.sub(r"[\s─]", "", narrow)) == sorted(re.sub(r"[\s─]", "", wide))


def test_order():
    assert ordered([("box_14",), ("box_4",), ("-",), ("0.1",), ("0.05",), ("1e-05",)]) == [
        ("1e-05",), ("0.05",), ("0.1",), ("-",), ("box_4",), ("box_14",),
    ]  # fmt: skip
    names = [
        "suspect/zeta",
        "suspect/fid",
        "suspect/false_trigger",
        "repaired/asr",
        "suspect/mse",
        "suspect/asr",
        "suspect/fid_classifier",
    ]
    assert in_order(names) == [
        "suspect/asr", "suspect/false_trigger", "suspect/mse", "suspect/fid", "suspect/fid_classifier",
        "repaired/asr", "suspect/zeta",
    ]  # fmt: skip


def test_numbers_of_different_origin_are_marked(tmp_path):
    """By device, torch and bdiff, with the stages; runs of before say nothing."""

    def made(device: str, torch: str, commit: str | None) -> dict:
        return {"device": device, "versions": {"torch": torch}, "commit": commit, "dirty": False, "version": "9"}

    here, there = made("CPU (X, 2 cores)", "2.11", "a" * 40), made("H100", "2.11", "a" * 40)
    for name, origin in {"a": {"train": here, "sample": there}, "b": {"train": made("H100", "2.15", None)}}.items():
        write_run(tmp_path / name, {"asr": 0.5}, {"name": "n", "seed": 0, "train": {"steps": name}}, provenance=origin)
    runs = find([tmp_path])
    assert pivot(runs, ["train.steps"], [], ["suspect/asr"]).notes[1:] == [
        "! numbers come from different devices: CPU (X, 2 cores) (train); H100 (sample, train)",
        "! numbers come from different versions of torch: 2.11 (train, sample); 2.15 (train)",
        f"! numbers come from different versions of bdiff: {'a' * 12} (train, sample); bdiff 9 (train)",
    ]
    assert origins([run for run in runs if run.folder.name == "b"]) == []


def test_a_precision_that_the_device_chose_reports_no_runs_apart_but_one_that_was_typed_does(tmp_path):
    for name, typed in (("a", ()), ("b", ())):
        config = {"name": "n", "seed": 0, "train": {"precision": {"a": "bf16", "b": "fp32"}[name]}}
        write_run(tmp_path / "auto" / name, {"asr": 0.5}, config, typed=typed)
        write_run(tmp_path / "typed" / name, {"asr": 0.5}, config,
                  typed=(f"train.precision={config['train']['precision']}",))  # fmt: skip
    assert len(pivot(find([tmp_path / "auto"]), None, [], ["suspect/asr"]).rows) == 1
    assert len(pivot(find([tmp_path / "typed"]), None, [], ["suspect/asr"]).rows) == 2
    for seed, typed in enumerate(((), ("train.precision=fp32",))):  # which the device had chosen too
        config = {"name": "n", "seed": seed, "train": {"precision": "fp32"}}
        write_run(tmp_path / "same" / str(seed), {"asr": 0.5}, config, typed=typed)
    for rows in (None, ["name"]):
        assert [row[-1].n for row in pivot(find([tmp_path / "same"]), rows, [], ["suspect/asr"]).rows] == [2]


def test_a_seed_counts_once_where_a_precision_was_typed_that_the_device_chooses_too(tmp_path):
    config = {"name": "n", "seed": 0, "train": {"precision": "fp32"}}
    write_run(tmp_path / "auto", {"asr": 0.25}, config, age=100)
    write_run(tmp_path / "typed", {"asr": 0.5}, config, typed=("train.precision=fp32",))
    (row,) = pivot(find([tmp_path]), None, [], ["suspect/asr"]).rows
    assert (row[-1].value, row[-1].n) == (0.5, 1)


def test_an_asr_stands_with_its_standard_error_and_over_seeds_with_their_deviation(tmp_path):
    write_run(tmp_path / "a", {"asr": 0.5, "asr_se": 0.0442}, {"name": "n", "seed": 0})
    sheet = pivot(find([tmp_path]), None, [], in_order(find([tmp_path])[0].metrics))
    assert (sheet.heads[1:], sheet.rows[0][1].text) == (["asr"], "0.500 (se 0.044)")
    found = [with_error("asr", {"asr": value, "asr_se": 0.0}) for value in (1.0, 0.0, 0.5)]
    assert found == ["1.000 (all)", "0.000 (none)", "0.500 (all alike)"]
    write_run(tmp_path / "b", {"asr": 0.7, "asr_se": 0.04}, {"name": "n", "seed": 1})
    assert pivot(find([tmp_path]), None, [], ["suspect/asr"]).rows[0][1].text == "0.600 ± 0.141 (n=2)"


def test_a_setting_that_is_null_is_one_that_is_not_there(tmp_path):
    for number, more in enumerate(({}, {"added": None})):
        folder = run(tmp_path / f"{number}", {"asr": 0.25 + number / 2}, seed=number)
        path = folder / "config.yaml"
        path.write_text(path.read_text() + "".join(f"{name}: null\n" for name in more))
    for rows in (None, ["trigger"]):
        (line,) = pivot(find([tmp_path]), rows, [], ["suspect/asr"]).rows
        assert line[-1].value == pytest.approx(0.5)
