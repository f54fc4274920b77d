"""Results in the schema result/1: what is written passes, and what is wrong is named."""

import json
from pathlib import Path

import pytest

from bdiff import __version__
from bdiff.cli.main import command
from bdiff.store import results
from bdiff.store.foreign import load

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
        ({"metrics": {"suspect/fid": -4}}, "metrics.suspect/fid is -4, outside of -0.01 to inf"),
        ({"metrics": {"inputs/seconds_per_input": -1}}, "metrics.inputs/seconds_per_input is -1, outside of 0 to inf"),
        ({"date": "2026-99-01T00:00:00+0000"}, "date is 2026-99-01T00:00:00+0000, not a time that there is"),
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


CLAIMING = [path for path in sorted((ROOT / "results").rglob("*.json")) if "schema" in json.loads(path.read_text())]


@pytest.mark.parametrize("path", CLAIMING, ids=lambda path: path.name)
def test_the_results_that_claim_the_schema_fit_it(path):
    assert results.problems(json.loads(path.read_text())) == []


CELL = {"attack": "baddiffusion", "trigger": "box", "target": "hat", "poison_rate": 0.1, "data": "digits",
        "model": "digits", "sampler": "ddpm", "steps": 100, "defense": "elijah", "role": "detection",
        "seed": 0}  # fmt: skip
JUDGED = {"suspect/asr": 0.5, "audit/score": 0}
PLACED = json.dumps(good(cell=CELL, metrics=JUDGED))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "guess"}, "cell.role is 'guess', not one of none, detection"),
        ({"role": "none"}, "cell.role must be none if cell.defense is"),
        ({"poison_rate": 1.5}, "cell.poison_rate is 1.5, not a number or null from 0 to 1: fraction of poisoned"),
        ({"seed": 0.5}, "cell.seed is a number, not a whole number or null from 0 on"),
        ({"steps": True}, "cell.steps is true or false, not a whole number or null from 1 on"),
        ({"trigger": None}, "cell.trigger is null, not text: option of the group trigger"),
        ({"attack": "a" * 101}, "cell.attack has 101 characters, not 100 at most"),
        ({"adaptive_to": [1]}, "cell.adaptive_to holds something else than text"),
        ({"adaptive_to": "elijah"}, "cell.adaptive_to is text, not a list of text"),
        ({"adaptive": []}, "cell.adaptive is unknown; did you mean adaptive_to?"),
        ({"attack": ""}, "cell.attack is '', not a name, in one line"),
        ({"trigger": "a\n| b"}, "cell.trigger is 'a\\n| b', not a name, in one line"),
        (
            {"defense": "disdet", "role": "inputs"},
            "metrics has none of the role inputs, whose names begin with inputs/",
        ),
        ({"defense": "clipping", "role": "sampling"}, "metrics has none of the role sampling"),
    ],
)
def test_a_wrong_field_of_a_cell_is_named_alone(changes, message):
    (problem,) = results.problems(good(cell=CELL | changes, metrics=JUDGED))
    assert message in problem


def test_a_result_of_a_cell_has_no_field_beyond_the_schema_and_a_benchmark_none_that_is_nearly_one():
    assert (
        results.problems(good(cell=CELL, metrics=JUDGED, name="n", note="n")) == [] == results.problems(good(extra=1))
    )
    (problem,) = results.problems(good(cell=CELL, metrics=JUDGED, colours=1))
    assert problem.startswith("colours is unknown")
    assert results.problems(good(cel=CELL)) == ["cel is unknown; did you mean cell?"]


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (b"", ["it is not JSON: Expecting value"]),
        (b"\xff\xfe", ["it is not UTF-8 (byte 0)"]),
        (b"[" * 100_000, ["it is nested more than 20 levels deep"]),
        (b'{"config": ' + b"[" * 30 + b"]" * 30 + b"}", ["it is nested more than 20 levels deep"]),
        (b'"' + b"a" * (1 << 20) + b'"', ["it has more than 1,048,576 bytes"]),
        (b"[]", ["it is not a JSON object"]),
        (b'{"schema": 1, "schema": 2}', ["schema stands in one object twice"]),
        (PLACED.replace("0.5", "NaN").encode(), ["metrics.suspect/asr is nan, not a finite number"]),
        (PLACED.replace("0.5", "1e999").encode(), ["metrics.suspect/asr is inf, not a finite number"]),
        (PLACED.replace("0.5", "9" * 5000).encode(), ["metrics.suspect/asr is inf, not a finite number"]),
        (PLACED.replace("0.5", "1.5").encode(), ["metrics.suspect/asr is 1.5, outside of 0 to 1"]),
        (PLACED.replace('"seed": 0}, "c', '"a": [-Infinity]}, "c').encode(), ["config.a.0 is -inf, not a finite"]),
        (PLACED.replace("CPU", "\\ud800").encode(), ["device has half a surrogate pair"]),
        (PLACED.replace("CPU", "\\u001b[2J").encode(), ["device has control characters"]),
        (
            PLACED.replace("suspect/asr", "\\u001b[31m").replace("0.5", '""').encode(),
            ["a name in metrics has control", r"metrics.\x1b[31m is ''"],
        ),
        (PLACED.replace('"protocol": {', '"protocol": {"asr": {"marks": 5}').encode(), ["protocol.asr.marks is 5"]),
        (PLACED.replace('"provenance": {', '"provenance": {"train": 5').encode(), ["provenance.train is a number"]),
        (PLACED.replace("elijah", "<script>").encode(), []),  # a word like any other
    ],
)
def test_a_file_from_elsewhere_is_refused_for_what_is_wrong_with_it(content, messages, tmp_path):
    (tmp_path / "one.json").write_bytes(content)
    faults = load(tmp_path / "one.json")[1]
    assert len(faults) == len(messages)
    assert all(fault.startswith(message) for fault, message in zip(faults, messages, strict=True))


def test_checking_names_the_file_and_each_fault_and_fails(tmp_path, capsys):
    (tmp_path / "good.json").write_text(PLACED)
    (tmp_path / "bad.json").write_text(json.dumps(good(cell=CELL | {"role": "x"}, device=1)))
    assert command(["results", "check", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2][:12] for line in lines] == ["device is a ", "cell.role is", "fits result/"]
    assert command(["results", "check", str(tmp_path / "good.json")]) == 0
    (tmp_path / "empty").mkdir()
    assert command(["results", "check", str(tmp_path / "empty")]) == 2
    assert "empty has no JSON in it: bdiff results export writes them" in capsys.readouterr().err
    assert load(tmp_path)[1] == ["it is not a file"]
