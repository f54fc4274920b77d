"""Results in the schema result/1: what is written passes, and what is wrong is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bdiff import __version__
from bdiff.store import results

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789" * 4


def good(**changes) -> dict:
    found = results.result(
        {"seed": 0}, {"suspect/asr": 0.5}, device="CPU", protocol={}, provenance={},
        made={"commit": COMMIT, "version": "1", "dirty": False},
    )  # fmt: skip
    return found | changes


def test_what_is_written_is_sound_and_says_which_code_made_it(tmp_path):
    results.write(tmp_path / "r.json", {}, {"a": 1}, device="CPU", protocol={}, provenance={}, note="more is allowed")
    found = json.loads((tmp_path / "r.json").read_text())
    assert results.problems(found) == [] and (found["version"], found["note"]) == (__version__, "more is allowed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"a": "0.5"}}, "metrics.a is '0.5', not a finite number"),
        ({"metrics": {"a": float("nan")}}, "metrics.a is nan"),
        ({"metrics": {"a": True}}, "metrics.a is True"),
        ({"metrics": []}, "metrics is a list, not an object"),
        ({"schema": "result/2"}, "schema is result/2, not result/1"),
        ({"schema": 1}, "schema is a number, not text"),
        ({"commit": "abc"}, "commit is 'abc', not 40 hex digits"),
        ({"commit": None}, "dirty must be null if commit is"),
        ({"dirty": "no"}, "dirty is text, not true or false or null"),
        ({"device": None}, "device is null, not text"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    assert any(message in problem for problem in results.problems(good(**changes)))


def test_a_field_that_is_missing_is_named():
    for name in results.FIELDS:
        found = good()
        del found[name]
        assert any(problem.startswith(f"{name} is missing") for problem in results.problems(found))
    assert results.problems([]) == ["it is not a JSON object"]


def test_a_result_from_a_wheel_has_no_commit():
    assert results.problems(good(commit=None, dirty=None)) == []


def test_a_wrong_result_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        results.write(tmp_path / "r.json", {}, {"a": float("inf")}, device="CPU", protocol={}, provenance={})
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.json")), ids=lambda path: path.name)
def test_the_results_that_claim_the_schema_fit_it(path):
    found = json.loads(path.read_text())
    assert "schema" not in found or results.problems(found) == []


def test_a_run_is_recorded(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    record = good() | {"status": "done", "name": "n", "keys": {"train": "k"}}
    (run / "metrics.json").write_text(json.dumps(record))
    (run / "config.yaml").write_text("seed: 3\n")
    (run / "overrides.yaml").write_text("[seed=3]\n")
    subprocess.run([sys.executable, ROOT / "scripts" / "record_result.py", run, tmp_path / "r.json"], check=True)
    found = json.loads((tmp_path / "r.json").read_text())
    assert results.problems(found) == [] and found["config"] == {"seed": 3} and found["commit"] == COMMIT
    assert found["command"] == "bdiff run seed=3"
