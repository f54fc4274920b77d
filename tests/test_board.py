"""The table of all jobs: which way round, and what is left out where it would not fit."""

import json
from pathlib import Path

import pytest

from bdiff.launch.live_view import BEFORE, COLUMNS, LEAK, WAITING, Board, Row, jobs_table
from bdiff.store.ledger import DONE, FAILED, INTERRUPTED, RUNNING, Ledger

SUSPECT = {"suspect/asr": 0.5, "suspect/fid": 8.0}
SHIELD = {f"shield/{place}/accuracy": place / 20 for place in range(COLUMNS)}


def row(folder: Path, number: int, metrics: dict[str, float]) -> Row:
    """A job that is done, with its metrics.json."""
    place = folder / str(number)
    place.mkdir()
    (place / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    return Row(f"job {number}", DONE, 3.0, place, None)


def cells(rows: list[Row]) -> list[list[str]]:
    """The table line by line, its heads first."""
    table = jobs_table(rows)
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(line) for line in zip(*columns, strict=True)]


def test_a_row_per_job(tmp_path):
    failed = Row("job 1", FAILED, 2.0, None, "no memory")
    assert cells([row(tmp_path, 0, SUSPECT), failed]) == [
        ["job", "state", "seconds", "asr", "fid"],
        ["job 0", "done", "3", "0.500", "8.00"],
        ["job 1", "failed", "2", "-", "-"],
    ]


@pytest.mark.parametrize("count", [1, COLUMNS])
def test_a_column_per_job_where_the_metrics_are_many(tmp_path, count):
    found = cells([row(tmp_path, number, SHIELD | SUSPECT) for number in range(count)])
    assert found[0] == ["job", *(f"job {number}" for number in range(count))]
    assert found[3] == ["asr", *["0.500"] * count]
    assert found[-1] == [f"shield/{COLUMNS - 1}/accuracy", *["0.450"] * count]


def test_the_suspect_model_alone_where_jobs_and_metrics_are_many(tmp_path):
    rows = [row(tmp_path, number, SHIELD | SUSPECT) for number in range(COLUMNS + 1)]
    assert cells(rows)[0] == ["job", "state", "seconds", "asr", "fid"]
    assert jobs_table(rows).caption == f"and {COLUMNS} more metrics, in the report"


def test_a_line_says_what_the_leak_is_where_there_is_one(tmp_path):
    assert jobs_table([row(tmp_path, 0, SUSPECT | {"suspect/false_trigger": 0.05})]).caption == LEAK
    assert jobs_table([row(tmp_path, 1, SUSPECT)]).caption is None


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
