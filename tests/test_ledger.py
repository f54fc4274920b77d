"""The book of a project's sweep jobs."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest
from PIL import Image

from bdiff.common.errors import RequestError
from bdiff.common.versions import VERSION
from bdiff.config.compose import jobs
from bdiff.config.parts import Part, describe
from bdiff.store import artifacts
from bdiff.store import ledger as ledgers
from bdiff.store.ledger import DONE, FAILED, LOST, RUNNING, Ledger, config_key


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "outputs" / "ledger.sqlite")


def test_attempts_are_kept_and_the_last_one_counts(ledger, tmp_path):
    assert ledger.attempts() == [] and ledger.latest(["a"], "sweep") == {} and not ledger.done("a")
    ledger.end(ledger.start("a", "sweep", tmp_path / "1", ["seed=1"]), FAILED, "a line")
    number = ledger.start("a", "sweep", tmp_path / "2", ["seed=1"])
    ledger.start("b", "sweep", tmp_path / "3", [])
    assert [one.status for one in ledger.attempts(["a"])] == [FAILED, RUNNING]
    ledger.end(number, DONE)
    last = ledger.latest(["a", "b", "c"], "sweep")
    assert {key: one.status for key, one in last.items()} == {"a": DONE, "b": RUNNING}
    assert (last["a"].overrides, last["a"].folder) == (["seed=1"], str(tmp_path / "2"))
    assert 0 <= last["a"].seconds < 60 and last["a"].ended >= last["a"].started
    assert [one.error for one in ledger.attempts(["a"])] == ["a line", None]


def test_an_attempt_whose_sweep_was_killed_is_lost_when_the_next_begins(ledger, tmp_path):
    ledger.start("a", "first", tmp_path, [])
    ledger.start("a", "second", tmp_path, [])
    assert [one.status for one in ledger.attempts()] == [LOST, RUNNING]


def test_a_failure_counts_for_its_own_sweep(ledger, tmp_path):
    ledger.end(ledger.start("a", "first", tmp_path, []), FAILED, "a line")
    ledger.end(ledger.start("b", "second", tmp_path, []), DONE)
    assert ledger.failed("first") and not ledger.failed("second")


def test_done_means_that_the_run_folder_says_so_too(ledger, tmp_path):
    ledger.end(ledger.start("a", "sweep", tmp_path / "run", []), DONE)
    assert not ledger.done("a")
    artifacts.write_json(tmp_path / "run" / "metrics.json", {"status": "done"})
    assert ledger.done("a")
    ledger.start("a", "another", tmp_path / "elsewhere", [])
    assert ledger.done("a")
    artifacts.write_json(tmp_path / "run" / "metrics.json", {"status": "failed"})
    assert not ledger.done("a")


def test_a_ledger_of_before_goes_on(ledger, tmp_path):
    """It has two columns that are no longer kept."""
    old = "id INTEGER PRIMARY KEY, key TEXT, sweep TEXT, folder TEXT, overrides TEXT, host TEXT, pid INTEGER"
    ledger.path.parent.mkdir()
    with closing(sqlite3.connect(ledger.path)) as book, book:
        book.execute(f"CREATE TABLE attempts ({old}, status TEXT, started REAL, ended REAL, error TEXT)")
        book.execute("INSERT INTO attempts VALUES (1, 'a', 's', 'f', '[]', 'here', 7, 'done', 1.0, 2.0, NULL)")
    ledger.end(ledger.start("b", "s", tmp_path, []), DONE)
    assert [(one.key, one.status) for one in ledger.attempts()] == [("a", DONE), ("b", DONE)]


def test_processes_write_side_by_side(ledger, tmp_path):
    code = (
        "import sys; from pathlib import Path; from bdiff.store.ledger import Ledger\n"
        "book = Ledger(Path(sys.argv[1]))\n"
        "for k in range(20): book.end(book.start(f'{sys.argv[2]}{k}', 's', Path('f'), []), 'done')"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, ledger.path, name]) for name in "abc"]
    assert [one.wait(timeout=60) for one in writers] == [0, 0, 0]
    assert sorted(one.key for one in ledger.attempts()) == sorted(f"{name}{k}" for name in "abc" for k in range(20))
    assert {one.status for one in ledger.attempts()} == {DONE}


def key(*overrides: str) -> str:
    (config,) = jobs(list(overrides), multirun=False)
    return config_key(config)


@pytest.mark.parametrize(
    "same", ["runtime.device=cpu", "paths.outputs=/elsewhere", "tracker=wandb", "name=other", "sweep.on_failure=stop"]
)
def test_a_job_is_the_same_wherever_it_runs(same):
    assert key(same) == key()


@pytest.mark.parametrize("other", ["seed=1", "trigger=stop_sign", "train.epochs=55", "sample.clip=true"])
def test_another_number_is_another_job(other):
    assert key(other) != key()


def test_another_picture_in_the_same_place_is_another_job(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (16, 16), 10).save(path)
    before = key("target=image", f"target.path={path}")
    assert key("target=image", f"target.path={path}") == before
    Image.new("L", (16, 16), 200).save(path)
    os.utime(path, ns=(1, 1))
    assert key("target=image", f"target.path={path}") != before


def test_another_file_in_a_folder_is_another_job(tmp_path):
    for name in ("a", "b"):
        Image.new("L", (16, 16), 10).save(tmp_path / f"{name}.png")
    before = key("data=images", f"data.path={tmp_path}")
    assert before == key("data=images", f"data.path={tmp_path}")
    Image.new("L", (16, 16), 10).save(tmp_path / "c.png")
    assert key("data=images", f"data.path={tmp_path}") != before


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"defense": {"_target_": "bdiff.defense.removal.weight_averaging.WeightAveraging", "clean": "base"}}, True),
        ({"defense": {"removal": {"clean": "base"}}}, True),
        ({"attack": {"_target_": "bdiff.attack.trojdiff.TrojDiff", "foreign_path": "base"}}, True),
        ({"target": {"_target_": "bdiff.target.image.image", "path": "base"}}, True),
        ({"attack": {"_target_": "bdiff.attack.villandiffusion.VillanDiffusion", "path": "base"}}, False),  # a word
        ({"classifier": {"model": {"pretrained": True}}}, False),
    ],
)
def test_what_names_a_folder_goes_into_the_key_and_a_word_that_one_is_called_by_does_not(
    config, named, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "weights").write_text("first")
    assert dict(ledgers.places(config)) == ({str(tmp_path / "base"): ledgers.stamp(tmp_path / "base")} if named else {})


def test_other_code_is_another_job(monkeypatch):
    before = key()
    monkeypatch.setitem(VERSION, "measure", VERSION["measure"] + 1)
    assert key() != before


@pytest.mark.parametrize("name", ["BadDiffusion", "PureDiffusion", "ElijahRemoval"])
def test_another_version_of_a_part_is_another_job(name, monkeypatch):
    def raised(path: str) -> Part:
        part = describe(path)
        return replace(part, versions=("version = 9", *part.versions)) if path.endswith(f".{name}") else part

    asked = ["defense=purediffusion", "defense.repair=true"]
    before = key(*asked)
    assert key(*asked) == before
    monkeypatch.setattr(ledgers, "describe", raised)
    assert key(*asked) != before


@pytest.mark.parametrize("content", [b"no database" * 100, bytes(5000), b"SQLite format 3\0" + b"\xff" * 4000, "cut"])
def test_a_damaged_ledger_is_named_with_what_to_do(content, ledger, tmp_path):
    for number in range(100):
        ledger.start(str(number), "sweep", tmp_path, [])
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    for ask in (ledger.attempts, lambda: ledger.start("a", "sweep", tmp_path, [])):
        with pytest.raises(RequestError, match=r"ledger\.sqlite cannot be used .*move it away") as caught:
            ask()
        assert len(caught.value.problems) == 1


def test_another_programs_database_is_no_ledger(ledger):
    ledger.path.parent.mkdir()
    with closing(sqlite3.connect(ledger.path)) as book, book:
        book.execute("CREATE TABLE attempts (something TEXT)")
    with pytest.raises(RequestError, match="no such column"):
        ledger.attempts()


def test_damaged_overrides_are_none_and_a_damaged_record_is_not_done(ledger, tmp_path):
    ledger.end(ledger.start("a", "sweep", tmp_path, ["x=1"]), DONE)
    with closing(sqlite3.connect(ledger.path)) as book, book:
        book.execute("UPDATE attempts SET overrides = '[half'")
    assert ledger.latest(["a"], "sweep")["a"].overrides == []
    for text in ("", "{half", "[]", "{}"):
        (tmp_path / "metrics.json").write_text(text)
        assert not ledger.done("a")
