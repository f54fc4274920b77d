"""`bdiff table` from its words to what it prints, writes and answers."""

import csv
import io
from pathlib import Path

import pytest
from fake_runs import settings, write_run

from bdiff.cli import main as cli
from bdiff.cli.shared import written
from bdiff.cli.table import rows_of
from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.config.folders import asked
from bdiff.config.keys import plain, resolved

ROW = "baddiffusion/box_14-trigger-p10"


@pytest.fixture
def ask(capsys, monkeypatch, tmp_path):
    """Run `bdiff table` in an empty folder and return its exit code, what it prints and what it complains of."""
    monkeypatch.chdir(tmp_path)

    def ask(*words: str) -> tuple[int, str, str]:
        code = cli.command(["table", *words])
        return (code, *capsys.readouterr())

    return ask


@pytest.fixture
def outputs(tmp_path) -> Path:
    """Runs of two triggers and two seeds below outputs/."""
    folder = tmp_path / "outputs" / "multiruns" / "day"
    for trigger in ("box_4", "box_14"):
        for seed in (0, 1):
            write_run(
                folder / f"{trigger}-{seed}",
                {"asr": 0.5 + seed / 4, "mse": 0.1},
                settings(trigger, seed=seed),
                typed=(f"trigger={trigger}", f"seed={seed}"),
                choices={"trigger": trigger, "experiment": None},
            )
    return tmp_path / "outputs"


def of_row(folder: Path, *typed: str, metrics: dict[str, float], protocol: dict) -> None:
    """Write a run of `ROW`, its config composed as a request composes it."""
    (config,) = jobs([f"experiment={ROW}", *typed], multirun=False)
    words, choices = asked(config.hydra)
    write_run(folder, metrics, plain(resolved(config)), typed=words, choices=choices, protocol=protocol)


def test_outputs_are_looked_through_where_nothing_is_named(ask, outputs):
    code, out, err = ask("--format", "csv")
    assert code == 0 and err.startswith("4 runs; mean")
    first, second = csv.DictReader(io.StringIO(out))
    assert first == {
        "trigger": "box_4", "asr mean": "0.625", "asr std": repr(0.125 * 2**0.5), "asr n": "2",
        "mse mean": "0.1", "mse std": "0.0", "mse n": "2",
    }  # fmt: skip
    assert second["trigger"] == "box_14"


@pytest.mark.parametrize("name", ["asr", "suspect/asr"])
def test_metrics_by_short_and_full_names(name, ask, outputs):
    code, out, _ = ask("outputs/multiruns", "--metrics", name, "--format", "md")
    assert code == 0 and "| trigger | asr |" in out


@pytest.mark.parametrize(
    ("form", "start"), [("rich", "asr by trigger"), ("md", "**asr"), ("latex", "% "), ("csv", "trig")]
)
def test_a_table_is_written_whole_into_a_file(form, start, ask, outputs, tmp_path):
    code, out, _ = ask("--metrics", "asr", "--format", form, "--out", "new/table")
    assert code == 0 and out == "written to new/table\n"
    text = (tmp_path / "new" / "table").read_text()
    assert text.startswith(start) and text == ask("--metrics", "asr", "--format", form)[1]


WRONG = [
    ("--format xml", "invalid choice: 'xml'", "bdiff table --help"),
    ("--row trigger", "--row", "bdiff table --help"),
    ("--rows", "expected one argument"),
    ("--rows triger", "triger is set in no run; did you mean trigger?"),
    ("--cols sample.clp", "did you mean sample.clip?"),
    ("--metrics asrr", "asrr is not known; did you mean asr?", "(choose from asr, mse)"),
    (
        "nowhere",
        "nowhere is neither a folder nor an experiment (experiments: baddiffusion, clipping, diff2, ",
        "; tables: ",
    ),
    ("baddifusion", "did you mean baddiffusion?"),
    ("--rows sample.clip", "4 runs belong to one cell but differ in trigger (box_14, box_4)"),
    ("--out outputs", "--out outputs is a folder"),
]


@pytest.mark.parametrize(
    ("line", "message"), [(line, message) for line, *message in WRONG], ids=[row[0] for row in WRONG]
)
def test_wrong_words_are_reported_in_a_line(line, message, ask, outputs):
    code, out, err = ask(*line.split())
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in message), err
    assert len(list(outputs.rglob("metrics.json"))) == 4


@pytest.mark.parametrize("words", [[], ["empty"], ["baddiffusion", "--rows", "trigger"]])
def test_no_runs(words, ask, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert "no runs" in err and (words[0] if words else "outputs") in err


def test_an_experiments_rows_are_listed_whether_run_or_not(ask, tmp_path):
    fid = {"fid_classifier": {"sample_count": 64, "marks": ["fewer samples (64)"]}}
    of_row(tmp_path / "outputs" / "small", "data=digits", "sample.count=64",
           metrics={"asr": 0.75, "mse": 0.01, "fid_classifier": 2.0}, protocol=fid)  # fmt: skip
    paper = {"fid": {"sample_count": 2048, "marks": []}}
    of_row(tmp_path / "outputs" / "paper", metrics={"asr": 1.0, "mse": 0.005, "fid": 20.0}, protocol=paper)
    code, out, err = ask("baddiffusion", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    ours = {line["comparable"]: line for line in lines if line["row"] == "box_14-trigger-p10"}
    unsaid = "; DDPM variance unknown (ours fixed_large)"
    assert code == 0 and set(ours) == {f"no: data=digits, sample.count=64{unsaid}", f"yes{unsaid}"}
    assert (ours[f"yes{unsaid}"]["fid ours mean"], ours[f"yes{unsaid}"]["fid published"]) == ("20.0", "21.13")
    others = [line for line in lines if line["row"] != "box_14-trigger-p10"]
    assert len(others) == 11 and all(line["comparable"].startswith("not run") for line in others)
    assert all(line["mse ours mean"] == "not run" and float(line["mse published"]) for line in others)
    assert "! fid_classifier: fewer samples (64)" in err and "[2] BadDiffusion" in err


def test_metrics_of_an_experiment_can_be_chosen_before_it_is_run(ask):
    code, out, _ = ask("clipping", "--metrics", "mse", "--format", "md")
    assert code == 0 and "| row | mse ours | mse published | source | comparable |" in out
    assert r"| stop_sign_14-shift-p90-on | not run | 0.083 | \[1] | not run |" in out


def test_the_runs_of_an_experiment_as_any_others(ask, outputs):
    of_row(outputs / "small", metrics={"asr": 0.75}, protocol={})
    code, out, _ = ask("baddiffusion", "--rows", "trigger", "--cols", "attack.poison_rate", "--format", "csv")
    assert code == 0 and out.splitlines() == ["trigger,0.1 mean,0.1 std,0.1 n", "box_14,0.75,,1"]


def test_rows_of_an_experiment_in_the_order_of_their_numbers():
    options = ["paper/box_14", "paper/box_4", "other/box_4"]
    assert rows_of("paper", options) == ["paper/box_4", "paper/box_14"]
    assert rows_of("paper/box_4", options) == ["paper/box_4"] and rows_of("pap", options) == []


def test_a_file_that_cannot_be_written_is_named_with_the_reason_there_is():
    def full() -> None:
        raise OSError("no place left")

    with pytest.raises(RequestError, match=r"^--out there cannot be written \(no place left\)$"):
        written(Path("there"), "--out", full)
