"""`bdiff zoo` over a zoo written by hand: rows against numbers worked out by hand, what is said of gaps, the figure."""

import csv
import io
import json
from pathlib import Path

import pytest
from fake_runs import settings, write_run
from PIL import Image

from bdiff.cli import main as cli
from bdiff.report import detection_figure
from bdiff.report.benchmark import judged
from bdiff.report.runs import find

#: model -> its trigger, its true trigger's ASR, and Elijah's score, L2 and inverted ASR; the clean ones' threshold is 5
MODELS = {
    "clean-0": (None, 0.0, 1, 7, 0.0),
    "clean-1": (None, 0.0, 2, 8, 0.0),
    "clean-2": (None, 0.0, 3, 9, 0.0),
    "noise-0": ("noise", 1.0, 6, 1, 0.9),
    "noise-1": ("noise", 0.2, 2.5, 3, 0.1),  # training failed to implant it
    "stop_sign-0": ("stop_sign", 0.8, 9, 2, 0.8),
    "stop_sign-1": ("stop_sign", 0.6, 4, 4, 0.3),
}


def judge(
    folder: Path,
    audit: str,
    model: str,
    *,
    score: float | None = None,
    key: str | None = None,
    steps: int = 100,
    data: str = "digits",
    age: float = 0,
    **more,
) -> Path:
    """Write the run in which `audit` judged `model`, with Elijah's score of it by default."""
    trigger, true_asr, own_score, l2, asr = MODELS[model]
    audited = {"score": own_score if score is None else score, "l2": l2, "cosine": 0.5, "asr": asr, "seconds": 2,
               "evaluations": 10_000}  # fmt: skip
    found = {} if "status" in more else {f"audit/{name}": value for name, value in audited.items()}
    config = settings(seed=list(MODELS).index(model), defense={"steps": steps})
    choices: dict[str, str | None] = {"trigger": trigger or "box", "defense": audit, "data": data}
    keys = {"train": model if data == "digits" else f"{data}-{model}", "audit": key or f"{audit}-{model}"}
    protocol = {"audit": {"backdoored": trigger is not None}}
    metrics = {"asr": true_asr, **found}
    return write_run(folder, metrics, config, choices=choices, protocol=protocol, keys=keys, age=age, **more)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A zoo below zoo/: Elijah judged all models; TERD three clean ones and one other, and failed at a fifth."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "zoo"
    for model in MODELS:
        judge(folder / f"elijah-{model}", "elijah", model)
    for model, score in {"clean-0": 10, "clean-1": 10, "clean-2": 40, "stop_sign-0": 30}.items():
        judge(folder / f"terd-{model}", "terd", model, score=score)
    judge(folder / "terd-noise-0", "terd", "noise-0", status="failed", error="out of memory")
    write_run(folder / "plain", {"asr": 1.0}, settings(seed=99), choices={"trigger": "noise"}, keys={"train": "other"})
    return folder


@pytest.fixture
def ask(capsys):
    """Run `bdiff zoo` and return its exit code, its rows by audit and group, and what it says beside them."""

    def ask(*words: str) -> tuple[int, dict[tuple[str, str], dict[str, str]], str]:
        code = cli.command(["zoo", *words, "--format", "csv"])
        out, err = capsys.readouterr()
        return code, {(row["detection"], row["trigger"]): row for row in csv.DictReader(io.StringIO(out))}, err

    return ask


def numbers(row: dict[str, str], *heads: str) -> list[float]:
    """Some numbers of a row."""
    return [float(row[head]) for head in heads]


RATES = ("clean", "backdoored", "accuracy", "TPR", "TNR", "AUROC", "threshold")
FIDELITY = ("score", "true ASR", "L2", "cosine", "ASR", "ASR ratio", "seconds", "network evaluations")


def test_an_audits_row_is_what_comes_out_by_hand(ask, place):
    code, rows, _ = ask("zoo")
    assert code == 0
    elijah = rows["elijah", "all"]  # 6 and 9 are above 5; of 12 pairs only 2.5 against 3 is the wrong way round
    assert numbers(elijah, *RATES) == pytest.approx([3, 4, 5 / 7, 2 / 4, 1, 11 / 12, 5])
    assert numbers(elijah, *FIDELITY) == pytest.approx([21.5 / 4, 0.65, 2.5, 0.5, 2.1 / 4, 2.1 / 2.6, 2, 10_000])
    assert elijah["L2 patch"] == "-"  # no run has it
    # 40 meets 10, the threshold of 10 and 10; 10 meets 25 + 3 * 21.2; the threshold is 20 + 3 * sqrt(300)
    terd = rows["terd", "all"]
    assert numbers(terd, *RATES) == pytest.approx([3, 1, 2 / 4, 0, 2 / 3, 2 / 3, 20 + 3 * 300**0.5])


def test_models_are_judged_by_another_score_on_request(ask, place, capsys):
    for path in place.glob("elijah-*/metrics.json"):
        record = json.loads(path.read_text())
        record["metrics"]["audit/relative_score"] = record["metrics"]["audit/l2"]  # by which the clean ones are higher
        path.write_text(json.dumps(record))
    code, rows, _ = ask("zoo", "--score", "relative_score")
    assert code == 0 and {audit for audit, _ in rows} == {"elijah"}  # TERD has no such score
    assert numbers(rows["elijah", "all"], "AUROC", "threshold", "relative_score") == [0, 11, 2.5]
    assert cli.command(["zoo", "zoo", "--score", "relative"]) == 2
    assert "--score relative is none of these detections': relative_score, score are" in capsys.readouterr().err


def test_a_rate_takes_the_conformal_threshold_and_tries_it_on_each_data_set(place, capsys):
    for model, score in {"clean-0": 2.5, "clean-1": 4.5, "noise-0": 1.5}.items():
        judge(place / f"letters-{model}", "elijah", model, score=score, data="letters", key=f"letters-{model}", steps=9)
    assert cli.command(["zoo", "zoo", "--rate", "0.25", "--format", "csv"]) == 2
    assert "csv holds one table, and --rate adds a second" in capsys.readouterr().err
    assert cli.command(["zoo", "zoo", "--rate", "0.25", "--format", "md"]) == 0
    text = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    heads = next(row for row in table if row)
    elijah = dict(zip(heads, next(row for row in table if row[:2] == ["elijah", "all"]), strict=True))
    # clean 1, 2, 3, 2.5, 4.5: above 4.5; without it above 3
    assert [elijah[head] for head in ("clean", "backdoored", "TPR", "FPR")] == ["5", "5", "0.400", "0.200"]
    assert elijah["threshold"] == "4.5" and "TNR" not in elijah
    assert "reaches at a rate of at most 0.25" in text and "! terd has no threshold" not in text
    assert "! models of different data or architecture are judged together: data (digits, letters)" in text
    other = [row for row in table if len(row) == 9 and row[0] == "elijah"]
    # the letters' two are too few for a threshold on the digits; the digits' three have it above 3
    assert other == [
        ["elijah", "digits", "2", "inf", "3", "0.000", "4", "0.000", "0.917"],
        ["elijah", "letters", "3", "3", "2", "0.500", "1", "0.000", "0.000"],
    ]


def test_triggers_have_rows_of_their_own(ask, place):
    _, rows, _ = ask("zoo")
    assert list(rows) == [
        ("elijah", "all"), ("terd", "all"), ("elijah", "noise"), ("elijah", "stop_sign"), ("terd", "stop_sign"),
        ("elijah", "implanted"), ("terd", "implanted"),
    ]  # fmt: skip
    noise, stop_sign = rows["elijah", "noise"], rows["elijah", "stop_sign"]
    assert numbers(noise, "backdoored", "TPR", "true ASR", "score", "L2", "ASR") == [2, 0.5, 0.6, 4.25, 2, 0.5]
    assert numbers(noise, "ASR ratio", "AUROC") == pytest.approx([0.5 / 0.6, 5 / 6])
    assert numbers(stop_sign, "backdoored", "TPR", "true ASR", "score", "L2", "ASR") == pytest.approx(
        [2, 0.5, 0.7, 6.5, 3, 0.55]
    )


def test_models_whose_backdoor_did_not_take_are_counted_and_left_out_apart(ask, place):
    _, rows, notes = ask("zoo")
    assert numbers(rows["elijah", "implanted"], *RATES[1:6]) == pytest.approx([3, 5 / 6, 2 / 3, 1, 1])
    assert "! training did not implant 1 of the 4 backdoors (true ASR below 0.5)" in notes
    _, rows, notes = ask("zoo/elijah-clean-0", "zoo/elijah-noise-0")
    assert ("elijah", "implanted") not in rows and "implant" not in notes


def test_what_is_missing_is_counted(ask, place):
    _, _, notes = ask("zoo")
    assert "judged, of 7 models: elijah 7, terd 4 (1 failed)" in notes
    assert f"failed: {place / 'terd-noise-0'}: out of memory" in notes
    judge(place / "again", "terd", "noise-0", score=12)
    judge(place / "other", "uncertain", "noise-0", status="interrupted")
    _, rows, notes = ask("zoo")
    assert "elijah 7, terd 5, uncertain 0 (1 interrupted)" in notes and "out of memory" not in notes
    assert rows["terd", "noise"]["score"] == "12.0"


def test_of_runs_that_share_an_audit_the_newest_counts(ask, place):
    for name, score, age in (("older", 100, 50), ("newer", 7, -50)):
        judge(place / name, "elijah", "noise-0", score=score, age=age, steps=99, key="elijah-noise-0")
    _, rows, _ = ask("zoo")
    assert numbers(rows["elijah", "noise"], "backdoored", "score") == [2, (7 + 2.5) / 2]
    judge(place / "newest", "elijah", "noise-0", score=8, age=-60, key="made by another version")
    _, rows, _ = ask("zoo/elijah-noise-0", "zoo/newest")
    assert numbers(rows["elijah", "noise"], "backdoored", "score") == [1, 8]


def test_an_audit_of_one_model_with_two_settings_is_an_error_that_names_them(place, capsys):
    judge(place / "other", "elijah", "noise-0", steps=50, key="another")
    assert cli.command(["zoo", "zoo"]) == 2
    message = capsys.readouterr().err
    assert "elijah judged a model in " in message and "defense.steps (100, 50)" in message


def test_an_audit_that_was_not_set_alike_everywhere_is_marked(ask, place):
    assert "different settings in some runs" not in ask("zoo")[2]
    judge(place / "other", "terd", "noise-1", steps=50)
    assert "! terd has different settings in some runs: defense.steps (100, 50)" in ask("zoo")[2]


def test_models_of_one_data_set_and_architecture_are_not_marked_as_mixed(ask, place):
    assert "judged together" not in ask("zoo")[2]


def test_two_clean_models_make_no_threshold_and_this_is_said(ask, place):
    _, rows, notes = ask(*(f"zoo/elijah-{model}" for model in ("clean-0", "clean-1", "noise-0", "noise-1")))
    assert [rows["elijah", "all"][head] for head in RATES[2:]] == ["-", "-", "-", "1.0", "-"]
    assert "! elijah has no threshold: that needs 3 clean models, not 2" in notes


@pytest.mark.parametrize(("form", "start"), [("rich", "detection"), ("md", "**detection"), ("latex", "% ")])
def test_the_table_in_other_formats_and_in_a_file(form, start, place, capsys):
    assert cli.command(["zoo", "zoo", "--format", form, "--out", "new/zoo"]) == 0
    assert capsys.readouterr().out == "written to new/zoo\n"
    text = Path("new/zoo").read_text()
    assert text.startswith(start) and "7 models, 3 clean and 4 backdoored" in text and "0.808" in text


def test_the_figure_shows_every_score_and_the_threshold(place, monkeypatch):
    drawn = {}

    class Watched(detection_figure.Figure):
        def savefig(self, *args, **options):
            drawn["figure"] = self
            super().savefig(*args, **options)

    monkeypatch.setattr(detection_figure, "Figure", Watched)
    detection_figure.scores(place / "new" / "zoo.png", judged(find([place]), "score", None))
    assert Image.open(place / "new" / "zoo.png").width > 500
    elijah, terd = drawn["figure"].axes
    assert [label.get_text() for label in elijah.get_xticklabels()] == ["clean", "noise", "stop_sign"]
    *marks, line = elijah.lines
    assert sorted((round(mark.get_xdata()[0]), mark.get_ydata()[0]) for mark in marks) == [
        (0, 1), (0, 2), (0, 3), (1, 2.5), (1, 6), (2, 4), (2, 9),
    ]  # fmt: skip
    assert [mark.get_ydata()[0] for mark in marks if mark.get_markerfacecolor() == "none"] == [2.5]
    assert set(line.get_ydata()) == {5} and len(terd.lines) == 4 + 1


def test_the_figure_is_drawn_on_request(place, capsys):
    assert cli.command(["zoo", "zoo", "--figure", "zoo.svg"]) == 0
    assert capsys.readouterr().err == "drawn to zoo.svg\n" and Path("zoo.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("rate", ["1", "0", "5%"])
def test_a_rate_that_is_none_is_reported_in_a_line(rate, place, capsys):
    code = cli.command(["zoo", "zoo", "--rate", rate])
    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1) and f"--rate: {rate} must lie between 0 and 1" in err


def test_a_figure_where_a_folder_is_leaves_the_folder(place, capsys):
    Path("zoo.png").mkdir()
    assert cli.command(["zoo", "zoo", "--figure", "zoo.png"]) == 2
    assert "--figure zoo.png is a folder" in capsys.readouterr().err and Path("zoo.png").is_dir()


def test_no_audited_runs(place, capsys):
    assert cli.command(["zoo", "zoo/plain", "zoo/terd-noise-0"]) == 2
    message = capsys.readouterr().err
    assert "no run with a detection is done below zoo/plain, zoo/terd-noise-0 (1 did not" in message
