"""What a finished run comes to: read from run folders written by hand."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from fake_runs import settings, write_run

from bdiff.common.progress import Screen
from bdiff.report.runs import Run, read
from bdiff.report.summary import summary, summary_table

METRICS = {"asr": 0.98, "asr_se": 0.0087, "false_trigger": 0.004, "fid_classifier": 0.912}
CHOICES = {"attack": "baddiffusion", "data": "digits", "trigger": "box_14", "target": "corner"}
PROTOCOL = {"asr": {"count": 256, "expected": True}, "fid_classifier": {"count": 512}}


def finished(home: Path, name: str, attack: str = "baddiffusion", rate: float = 0.1, **more) -> Run:
    """A run below home/outputs."""
    history = home / "history.jsonl"
    history.write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in (10, 1000)))
    config = settings(rate=rate, **more.pop("config", {})) | {"paths": {"outputs": str(home / "outputs")}}
    folder = home / "outputs" / "runs" / "2026-01-01" / name
    about = {"typed": (), "choices": CHOICES | {"attack": attack}, "protocol": PROTOCOL, "reused": [],
             "history": str(history), "seconds": {"train": 41.2}} | more  # fmt: skip
    return read(write_run(folder, about.pop("metrics", METRICS), config, **about))


def test_a_run_says_what_was_trained_and_what_came_of_it(tmp_path):
    assert summary(finished(tmp_path, "one")) == {
        "trained": "baddiffusion on digits, box_14 -> corner, 10 % poisoned; 1,000 steps in 41 s, loss █▁ 0.001",
        "ASR": "0.980 (se 0.009) of 256 triggered samples show the target",
        "leak": "false_trigger 0.004 of clean samples",
        "distance": "fid_classifier 0.912; for a clean model's, the same command with attack=none",
    }


def test_the_distance_stands_beside_that_of_a_clean_model_of_the_same_settings(tmp_path):
    clean = {"attack": "none", "rate": 0.0}
    finished(tmp_path, "old", **clean, metrics={"fid_classifier": 0.7}, age=20)
    finished(tmp_path, "new", **clean, metrics={"fid_classifier": 0.8}, age=10)
    finished(tmp_path, "other samples", **clean, protocol=PROTOCOL | {"fid_classifier": {"count": 64}})
    finished(tmp_path, "other training", **clean, config={"train": {"steps": 1}})
    finished(tmp_path, "failed", **clean, status="failed")
    assert summary(finished(tmp_path, "one"))["distance"] == "fid_classifier 0.912; a clean model's 0.800"
    assert summary(finished(tmp_path, "clean", **clean))["distance"] == "fid_classifier 0.912, of this clean model"


def test_the_leak_stands_beside_that_of_a_clean_model_with_the_same_target(tmp_path):
    clean = {"attack": "none", "rate": 0.0, "protocol": PROTOCOL | {"false_trigger": {"count": 512}}}
    finished(tmp_path, "clean", **clean, metrics={"false_trigger": 0.002}, age=10)
    finished(tmp_path, "of another", **clean, metrics={"false_trigger": 0.3}, config={"target": {"side": 3}})
    run = finished(tmp_path, "one", protocol=PROTOCOL | {"false_trigger": {"count": 512}})
    assert summary(run)["leak"] == "false_trigger 0.004 of clean samples; a clean model 0.002"


def test_a_run_that_vanishes_while_clean_ones_are_looked_for_is_passed_over(tmp_path, monkeypatch):
    finished(tmp_path, "clean", attack="none", rate=0.0, metrics={"fid_classifier": 0.7})
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *about: [*listed(*about), tmp_path / "gone" / "metrics.json"])
    assert summary(finished(tmp_path, "one"))["distance"] == "fid_classifier 0.912; a clean model's 0.700"


@pytest.mark.parametrize(
    ("metrics", "head", "line"),
    [
        ({"suspect/class_asr": 0.5}, "ASR",
         "0.500 of 9 triggered samples show the target; this sampler was not expected to open it"),
        ({"suspect/false_trigger": 0.1, "clean/false_trigger": 0.0, "data/false_trigger": 0.025}, "leak",
         "false_trigger 0.100 of clean samples; a clean model 0.000; the data 0.025"),
        ({"audit/score": -0.5, "audit/flagged": 1.0}, "audit", "score -0.5: flagged as backdoored"),
        ({"audit/score": -0.5, "audit/flagged": 0.0}, "audit", "score -0.5: not flagged"),
        ({"audit/score": -0.5}, "audit", "score -0.5: no threshold holds here"),
        ({"repaired/asr": 0.25, "repaired/asr_se": 0.031}, "repaired", "ASR 0.250 (se 0.031) after the removal"),
        ({"repaired/class_asr": 0.25}, "repaired", "ASR 0.250 after the removal"),
    ],
)  # fmt: skip
def test_lines_of_what_was_measured_alone(metrics, head, line, tmp_path):
    run = finished(
        tmp_path, "one", protocol={"class_asr": {"count": 9, "expected": False}}, metrics={}, reused=["train"]
    )
    (tmp_path / "history.jsonl").unlink()
    lines = summary(replace(run, record=run.record | {"metrics": metrics}))
    assert {*lines} == {"trained", head} and lines[head] == line
    assert lines["trained"] == "baddiffusion on digits, box_14 -> corner, 10 % poisoned; no steps"


@pytest.mark.parametrize(
    ("attack", "reads", "mode", "protocol", "words"),
    [
        ("diff2", ["trigger"], "append", {}, "trigger box_14, 100 % rows added"),
        ("invibackdoor", ["target"], "replace", {}, "target corner, 100 % poisoned"),
        ("trojdiff_in_d2d", ["trigger"], "append", {"class_asr": {"class": "7 of digits"}},
         "box_14 -> class 7 of digits, 100 % rows added"),
    ],
)  # fmt: skip
def test_what_was_trained_names_what_the_attack_reads(attack, reads, mode, protocol, words, tmp_path):
    more = {"poisoning": {"reads": reads, "mode": mode}, "protocol": PROTOCOL | protocol}
    trained = summary(finished(tmp_path, "one", attack, rate=1.0, **more))["trained"]
    assert trained.startswith(f"{attack} on digits, {words}; 1,000 steps")


def test_a_verdict_is_by_the_score_that_flags_and_says_its_rate(tmp_path):
    audit = {"threshold of": "relative_score", "threshold from": "false-positive rate at most 5 %"}
    run = finished(tmp_path, "one", protocol=PROTOCOL | {"audit": audit})
    found = {"audit/score": -0.5, "audit/relative_score": 0.9, "audit/flagged": 1.0}
    said = summary(replace(run, record=run.record | {"metrics": run.metrics | found}))["audit"]
    assert said == "relative_score 0.9: flagged as backdoored (false-positive rate at most 5 %)"


def test_a_summary_wraps_between_words_within_80_columns():
    out = StringIO()
    Screen(file=out, width=80).print(summary_table({"trained": "word " * 40, "leak": "none"}))
    lines = out.getvalue().splitlines()
    assert len(lines) > 2 and max(map(len, lines)) <= 80
    assert {word for line in lines for word in line.split()} == {"trained", "word", "leak", "none"}
