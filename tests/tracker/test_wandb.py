"""The wandb tracker, with the real wandb offline: what it wrote is read back from its folder."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from runs import carry_out
from tiny import TINY
from wandb_file import artifact, exit_code, history, read_back, summary

from bdiff.launch.place import SWEEP
from bdiff.tracker.none import NoTracker
from bdiff.tracker.wandb import WandbTracker

GREY = torch.full((2, 1, 8, 8), 7, dtype=torch.uint8)
#: tiny runs as a user starts them, with the default tracker
DEFAULT = [word for word in TINY if word != "tracker=none"]


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A user who has never logged in to wandb."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def tracker(nobody, caplog):
    caplog.set_level(logging.INFO, "bdiff")
    return WandbTracker(project="bdiff", entity=None, group=None, mode="auto", tags=["t"])


def warnings(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "WARNING" and "wandb" in record.message]


def test_an_offline_run_can_be_read_back(tracker, tmp_path, caplog):
    picture = tmp_path / "grid.png"
    Image.new("RGB", (4, 4)).save(picture)
    tracker.prepare()
    tracker.start("a-name", {"seed": 0, "train": {"lr": 0.1}}, tmp_path, group="a-sweep")
    tracker.log({"train/loss": 0.5}, step=10)
    tracker.picture("overview", picture)
    tracker.samples({"clean": torch.zeros(3, 3, 8, 8, dtype=torch.uint8), "triggered": GREY})
    tracker.log({"suspect/asr": 0.75})
    tracker.conclude({"suspect/asr": 0.75, "suspect/mse": 0.01})
    tracker.finish(failed=False)
    assert not warnings(caplog)
    (left,) = tmp_path.glob("wandb/offline-run-*")
    assert f"wandb: this run is kept offline; to send it: wandb sync {left.parent}/offline-run-*" in caplog.messages
    records = read_back(tmp_path)
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.display_name, run.run_group, run.job_type, run.project) == ("a-name", "a-sweep", "run", "bdiff")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["train"] == {"lr": 0.1}
    logged = {name: value for row in history(records) for name, value in row.items()}
    assert logged["train/loss"] == 0.5
    assert logged["train/step"] == 10
    assert logged["suspect/asr"] == 0.75
    assert logged["overview/_type"] == "image-file"
    assert summary(records).items() >= {"suspect/asr": 0.75, "suspect/mse": 0.01}.items()
    assert logged["samples/clean_triggered/_type"] == "table-file"
    staged = {name: path for name, path in artifact(records).items() if path.is_relative_to(tmp_path)}
    table = json.loads(staged["samples/clean_triggered.table.json"].read_text())
    assert table["columns"] == ["index", "clean", "triggered"] and [row[0] for row in table["data"]] == [0, 1]
    with Image.open(staged[table["data"][1][2]["path"]]) as shown:
        assert shown.size == (8, 8) and shown.convert("L").getextrema() == (7, 7)
    assert exit_code(records) == 0


def test_attempts_at_a_run_share_its_id_until_one_succeeds(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(WandbTracker, "_send", lambda self, what, **about: sent.append((what, about)))
    for failed in (True, False, False):
        tracker = WandbTracker(project="bdiff", entity=None, group="mine", mode="offline", tags=[])
        tracker.process = SimpleNamespace()  # which is sent nothing here
        tracker.start("a-name", {}, tmp_path, group="a sweep", attempts=tmp_path / "attempts" / "key")
        tracker.finish(failed)
    options = [about["options"] for what, about in sent if what == "start"]
    first, second, other = (one["id"] for one in options)
    assert first == second != other and {one["group"] for one in options} == {"mine"}


def begin(folder: Path, monkeypatch) -> tuple[WandbTracker, str | None]:
    """A tracker that has begun, and the id it asked for."""
    sent: list[dict] = []
    monkeypatch.setattr(WandbTracker, "_send", lambda self, what, **about: sent.append(about))
    tracker = WandbTracker(project="bdiff", entity=None, group=None, mode="offline", tags=[])
    tracker.process = SimpleNamespace()
    tracker.start("a-name", {}, folder, attempts=folder / "attempts" / "key")
    return tracker, sent[0]["options"].get("id")


def test_runs_of_one_config_at_the_same_time_are_two(tmp_path, monkeypatch):
    first, one = begin(tmp_path, monkeypatch)
    second, two = begin(tmp_path, monkeypatch)
    second.finish(failed=False)
    first.finish(failed=True)
    third, three = begin(tmp_path, monkeypatch)
    third.finish(failed=False)
    assert one == three != two and not [*(tmp_path / "attempts").iterdir()]


def test_where_the_id_cannot_be_kept_the_run_goes_on(tmp_path, monkeypatch, caplog):
    (tmp_path / "attempts" / "key").mkdir(parents=True)
    tracker, own = begin(tmp_path, monkeypatch)
    tracker.finish(failed=False)
    assert own is None and len(warnings(caplog)) == 1


def test_a_failed_run_is_closed_as_one(tracker, tmp_path, caplog):
    tracker.prepare()
    tracker.start("a-name", {}, tmp_path)
    tracker.finish(failed=True)
    assert exit_code(read_back(tmp_path)) == 1 and not warnings(caplog)


def test_a_run_that_never_started_leaves_nothing(tracker, tmp_path, caplog):
    tracker.prepare()
    tracker.finish(failed=True)
    assert not list(tmp_path.rglob("wandb")) and not warnings(caplog)


def test_disabled_it_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = WandbTracker(project="bdiff", entity=None, group=None, mode="auto", tags=[])
    tracker.prepare()
    tracker.start("a-name", {}, tmp_path)
    tracker.finish(failed=False)
    assert tracker.process is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('no wandb here')", "wandb: cannot be imported (no wandb here): this run is not tracked"),
        ("login = None", "wandb: is off for the rest of this run (TypeError:"),
        ("import os; os.kill(os.getpid(), 9)", None),
    ],
)
def test_a_failure_of_wandb_warns_once_and_nothing_more(source, said, tracker, tmp_path, monkeypatch, caplog):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "wandb.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/broken:{os.environ.get('PYTHONPATH', '')}")
    tracker.prepare()
    tracker.start("a-name", {}, tmp_path)
    for step in range(3000):  # more than a pipe holds, which nobody reads any longer
        tracker.log({"a": step})
    tracker.picture("b", tmp_path / "missing.png")
    tracker.finish(failed=False)
    reported = warnings(caplog)
    assert len(reported) == 1 and reported[0].startswith(
        said or "wandb: its process has ended early, with exit code -9"
    )


@pytest.mark.slow
def test_a_host_that_does_not_answer_costs_seconds_and_the_run_is_kept(tracker, tmp_path, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        tracker.prepare()
        tracker.start("a-name", {}, tmp_path)
        tracker.log({"suspect/asr": 0.75})
        began = time.monotonic()
        tracker.finish(failed=False)
    assert time.monotonic() - began < 12
    assert any("this run goes online, to project bdiff at http://127.0.0.1" in line for line in caplog.messages)
    assert any(line.startswith("wandb: cannot go online") for line in warnings(caplog))
    assert {"suspect/asr": 0.75}.items() <= history(read_back(tmp_path))[-1].items()


def test_the_default_run_is_tracked_offline_in_its_own_folder(home, tmp_path, monkeypatch):
    code, record = carry_out(home, "tracked", *DEFAULT)
    assert code == 0
    records = read_back(home / "tracked", patience=0)
    assert exit_code(records) == 0
    assert {"suspect/asr", "suspect/mse", "suspect/fid_classifier"} <= {*record["metrics"]}
    assert record["metrics"].items() <= summary(records).items()
    run = next(record.run for record in records if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["options"] == record["choices"] and config["attack"]["poison_rate"] == 0.1 and not run.run_group
    assert any("samples/clean_triggered/_type" in row for row in history(records))
    assert not any((home / "outputs" / "attempts").iterdir())
    assert any("train/loss" in row for row in history(records))
    assert "wandb: this run is kept offline" in (home / "tracked" / "run.log").read_text()
    monkeypatch.setenv(SWEEP, "1-1")
    code, again = carry_out(home, "tracked", *DEFAULT)  # the folder belongs to the second run alone
    assert code == 0 and again["reused"]
    records = read_back(home / "tracked", patience=0)
    run = next(record.run for record in records if record.HasField("run"))
    assert exit_code(records) == 0 and run.run_group == "/".join(home.parts[-2:])


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_closed_as_a_failed_one(sign, tmp_path):
    words = [Path(sys.executable).with_name("bdiff"), "run", *DEFAULT, "train.steps=100000", "hydra.run.dir=here"]
    words += [f"paths.cache={tmp_path}/cache", "runtime.progress=0.5", "train.precision=fp32"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if "loss" in line and "wandb:" in seen:
            break
    time.sleep(2)
    process.send_signal(sign)
    process.stderr.read()
    assert process.wait(timeout=60) == (130 if sign == signal.SIGINT else -signal.SIGKILL)
    records = read_back(tmp_path / "here")
    assert exit_code(records) == 1
    assert any("train/loss" in row for row in history(records))
    run = next(record.run for record in records if record.HasField("run"))
    (attempts,) = (tmp_path / "outputs" / "attempts").iterdir()
    assert attempts.read_text() == run.run_id  # under which the same command goes on


@pytest.mark.slow
def test_twelve_jobs_of_a_sweep_are_twelve_runs(tmp_path):
    words = [Path(sys.executable).with_name("bdiff"), "run", "-m", *DEFAULT, f"paths.cache={tmp_path}/cache"]
    words += ["metric/fid=none", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    words += ["target=corner,hat,shoe,cat", "attack.poison_rate=0.1,0.3,0.5"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    folders = sorted((tmp_path / "sweep").glob("*/"))
    assert len(folders) == 12
    for folder in folders:
        records = read_back(folder)
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        run = next(record.run for record in records if record.HasField("run"))
        assert exit_code(records) == 0 and run.run_group == f"{tmp_path.name}/sweep"
        assert summary(records)["suspect/mse"] == metrics["suspect/mse"]


def test_no_tracker_does_nothing(tmp_path):
    tracker = NoTracker()
    tracker.prepare()
    tracker.start("a-name", {"seed": 0}, tmp_path)
    tracker.log({"a": 1}, 3)
    tracker.samples({"clean": GREY})
    tracker.conclude({"a": 1.0})
    tracker.picture("b", tmp_path / "missing.png")
    tracker.finish(failed=True)
    assert list(tmp_path.iterdir()) == []
