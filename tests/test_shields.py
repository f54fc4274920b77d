"""`bdiff shields` from its words to what it prints, writes and answers."""

import csv
import io
from pathlib import Path

import pytest
from fake_runs import settings, write_run
from fake_shields import CERTIFIED, PURIFIED, write_shielded

from bdiff.cli import main as cli
from bdiff.report.sheet import escaped

TITLES = ["accuracy behind the shield by defense.t", "certified accuracy at L2 radii, images in [0,1] by name"]


@pytest.fixture
def ask(capsys, monkeypatch, tmp_path):
    """Run `bdiff shields` in the folder of `outputs` and return its exit code, what it prints and complains of."""
    monkeypatch.chdir(tmp_path)

    def ask(*words: str) -> tuple[int, str, str]:
        code = cli.command(["shields", *words])
        return (code, *capsys.readouterr())

    return ask


@pytest.fixture(autouse=True)
def outputs(tmp_path) -> Path:
    """Two purified runs and a certified one, one that failed, and one without a shield."""
    folder = tmp_path / "outputs"
    for t in (8, 20):
        found = PURIFIED | {"shield/asr": t / 32}
        write_shielded(folder / "pure" / f"t{t}", found, facts={"images": 359, "t": t}, typed={"t": t})
    write_shielded(folder / "certain" / "run", CERTIFIED, "certification", facts={"images": 100})
    write_shielded(folder / "broken" / "run", {}, status="failed", error="out of memory")
    write_run(folder / "plain" / "run", {"asr": 1.0}, settings(), choices={"defense": "none"})
    return folder


@pytest.mark.parametrize("form", ["rich", "md", "latex"])
def test_both_tables_one_after_the_other(form, ask):
    code, out, err = ask("outputs", "--format", form)
    forms = {"rich": str, "md": lambda title: title.replace("[", r"\["), "latex": escaped}
    first, second = (out.find(forms[form](title)) for title in TITLES)
    assert (code, err) == (0, "") and 0 <= first < second
    assert 0 < out.find("0.625") < out.find("images=359") < second < out.find("ACR") < out.find("images=100")
    assert out.rstrip().removesuffix("\\end{table}").rstrip().removesuffix("\\par").endswith("out of memory")


@pytest.mark.parametrize("form", ["rich", "md", "latex"])
def test_the_tables_are_written_whole_into_a_file(form, ask, tmp_path):
    assert ask("outputs", "--format", form, "--out", "new/tables") == (0, "written to new/tables\n", "")
    assert (tmp_path / "new" / "tables").read_text() == ask("outputs", "--format", form)[1]


def test_csv_holds_a_table_at_full_precision_and_its_notes_go_to_stderr(ask):
    code, out, err = ask("outputs/pure", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["defense.t"] for row in rows] == ["8"] * 3 + ["20"] * 3
    assert rows[5] == {
        "defense.t": "20", "shield": "shield with the suspect", "clean mean": "0.8", "clean std": "", "clean n": "1",
        "ASR mean": "0.625", "ASR std": "", "ASR n": "1",
    }  # fmt: skip
    assert err == "2 runs\nprotocol: shield images=359\n"
    code, out, _ = ask("outputs/certain", "--rows", "trigger", "--format", "csv")
    assert code == 0 and out.startswith("trigger,shield,input,acc@0 mean,acc@0 std,acc@0 n,ACR mean")


WRONG = [
    ("outputs --rows triger", "triger is set in no run; did you mean trigger?"),
    ("outputs --rows trigger", "2 runs belong to one cell but differ in defense.t (20, 8)"),
    ("outputs --format csv", "csv holds one table"),
    ("outputs --out outputs", "--out outputs is a folder"),
]


@pytest.mark.parametrize(
    ("line", "message"), [(line, message) for line, *message in WRONG], ids=[row[0] for row in WRONG]
)
def test_wrong_words_are_reported_in_a_line(line, message, ask):
    code, out, err = ask(*line.split())
    assert (code, out, len(err.splitlines())) == (2, "", 1) and all(word in err for word in message), err


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["outputs/plain"], "below outputs/plain: use bdiff run attack=diff2 defense=purification"),
        (["outputs/plain", "outputs/broken"], "below outputs/plain, outputs/broken (1 did not finish)"),
    ],
)
def test_no_runs_with_a_shield(folders, message, ask):
    code, out, err = ask(*folders)
    assert (code, out) == (2, "") and f"no run with a shield is done {message}" in err
