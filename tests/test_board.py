"""The table of all jobs: which way round, and what is left out where it would not fit."""

import io
import json
from pathlib import Path

import pytest

from bdiff.common.progress import Screen
from bdiff.launch.live_view import BEFORE, LEAK, WAITING, Board, Row, jobs_table
from bdiff.store.ledger import DONE, FAILED, INTERRUPTED, RUNNING, Ledger

SUSPECT = {"suspect/asr": 0.5, "suspect/fid": 8.0}
SHIELD = {f"shield/{place}/accuracy": place / 20 for place in range(10)}
DEMO = {
    "suspect/asr": 0.98828125, "suspect/false_trigger": 0.00390625, "suspect/mse": 0.0029233, "suspect/ssim": 0.951234,
    "suspect/psnr": 25.3411, "suspect/fid_classifier": 1.86221, "data/false_trigger": 0.0,
}  # fmt: skip
LABELS = ["attack=none", "attack=baddiffusion", "attack=noise_path_ancestral"]


def row(folder: Path, number: int, metrics: dict[str, float], label: str | None = None) -> Row:
    """A job that is done, with its metrics.json."""
    place = folder / str(number)
    place.mkdir()
    (place / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    return Row(label or f"job {number}", DONE, 3.0, place, None)


def cells(rows: list[Row], width: int = 160) -> list[list[str]]:
    """The table line by line, its heads first."""
    table = jobs_table(rows, width)
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(line) for line in zip(*columns, strict=True)]


def printed(rows: list[Row], width: int) -> list[str]:
    """The lines of the table in a terminal of that width."""
    terminal = Screen(file=io.StringIO(), width=width)
    terminal.print(jobs_table(rows, width))
    return terminal.file.getvalue().splitlines()


def test_a_row_per_job(tmp_path):
    failed = Row("job 1", FAILED, 2.0, None, "no memory")
    assert cells([row(tmp_path, 0, SUSPECT), failed]) == [
        ["job", "state", "seconds", "asr", "fid"],
        ["job 0", "done", "3", "0.500", "8.00"],
        ["job 1", "failed", "2", "-", "-"],
    ]


@pytest.mark.parametrize("count", [1, 10])
def test_a_column_per_job_where_the_metrics_are_many(tmp_path, count):
    found = cells([row(tmp_path, number, SHIELD | SUSPECT) for number in range(count)])
    assert found[0] == ["job", *(f"job {number}" for number in range(count))]
    assert found[3] == ["asr", *["0.500"] * count]
    assert found[-1] == [f"shield/{len(SHIELD) - 1}/accuracy", *["0.450"] * count]


def test_the_first_metrics_where_jobs_and_metrics_are_many(tmp_path):
    rows = [row(tmp_path, number, SHIELD | SUSPECT) for number in range(20)]
    assert cells(rows)[0] == ["job", "state", "seconds", "asr", "fid", *(f"shield/{n}/accuracy" for n in range(5))]
    assert jobs_table(rows, 160).caption == "and 5 more metrics, in the report"


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_no_number_wraps_in_any_terminal(width, count, tmp_path):
    rows = [row(tmp_path, number, DEMO, LABELS[number % 3]) for number in range(count)]
    lines = printed(rows, width)
    assert max(map(len, lines)) <= width
    found = cells(rows, width)
    upright = found[0][1] != "state"
    words = {word for line in found[1:] for word in line[1:]} | (set() if upright else {*found[0][1:]})
    assert all(any(f" {word} " in line for line in lines) for word in words)
    assert "0.988" in words and (count == 12 or "0.00292" in words or width == 60)


def test_a_line_says_what_the_leak_is_where_there_is_one(tmp_path):
    assert jobs_table([row(tmp_path, 0, SUSPECT | {"suspect/false_trigger": 0.05})], 160).caption == LEAK
    assert jobs_table([row(tmp_path, 1, SUSPECT)], 160).caption is None


@pytest.mark.parametrize(
    ("attempts", "state", "shown"),
    [
        ([("theirs", DONE)], BEFORE, 0),
        ([("theirs", INTERRUPTED)], WAITING, None),
        ([("theirs", None)], WAITING, None),
        ([("theirs", FAILED), ("own", None)], RUNNING, 1),
        ([("own", DONE), ("theirs", None)], DONE, 0),
        ([("own", None), ("theirs", None)], RUNNING, 0),
        ([("own", FAILED), ("theirs", DONE)], FAILED, 0),
        ([("theirs", DONE), ("theirs", FAILED)], BEFORE, 0),
    ],
)
def test_a_sweep_shows_its_own_attempt_at_a_job_or_a_done_one(attempts, state, shown, tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for number, (sweep, status) in enumerate(attempts):
        started = ledger.start("a", sweep, tmp_path / str(number), [])
        if status is not None:
            ledger.end(started, status)
            row(tmp_path, number, SUSPECT)
    (found,) = Board({"a": "seed=1"}, ledger, "own").rows()
    assert (found.state, found.folder) == (state, None if shown is None else tmp_path / str(shown))
