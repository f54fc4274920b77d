"""Sweeps: a process per job, what happened in the ledger, the same sweep again."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from players import play

from bdiff.cli import main as cli
from bdiff.config.compose import jobs
from bdiff.config.words import quoted
from bdiff.launch import sweep
from bdiff.launch.process import JOBS
from bdiff.launch.sweep import abandoned, death
from bdiff.report.runs import find
from bdiff.store.ledger import DONE, FAILED, INTERRUPTED, LOST, Ledger, config_key

#: stands in for `bdiff run` in a job's process: it leaves what a run leaves, or dies as `target` says
PLAYER = """
import json, os, signal, sys, time
from importlib.util import find_spec
from pathlib import Path
words = dict(word.split("=", 1) for word in sys.argv[2:])
folder = Path(words["hydra.run.dir"].strip('"'))
record = {"schema": 1, "name": "play", "overrides": sys.argv[2:-1], "choices": {"target": words["target"]},
          "published": None,
          "metrics": {"suspect/asr": float(words["attack.poison_rate"])}, "folder": str(folder), "git": "",
          "versions": {}, "protocol": {}, "keys": {}, "seconds": {}, "reused": [], "device": "none"}
def leave(status, **more):
    (folder / "metrics.json").write_text(json.dumps(record | {"status": status} | more))
(folder / "config.yaml").write_text("seed: 0")
leave("running")
broken = not Path("fixed").exists()
if words["attack.poison_rate"] == "0.9":  # as a real job, it ends when its sweep has ended
    sys.stdin.read()
    leave("interrupted")
    sys.exit(130)
if words.get("target") == "hat" and broken:
    leave("failed", error="the loss became nan")
    sys.exit(1)
if words.get("target") == "shoe" and broken:
    os.kill(os.getpid(), signal.SIGKILL)
leave("done")
"""


@pytest.fixture(params=["new"])
def here(tmp_path, monkeypatch, request) -> Path:
    """A folder where a job's process, in a new Python or (WAYS) forked too, finds the player in place of commands."""
    monkeypatch.setenv("PYTHONPATH", play(tmp_path, PLAYER))
    monkeypatch.setenv(JOBS, request.param)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bdiff"])
    return tmp_path


WAYS = pytest.mark.parametrize("here", [pytest.param("new", marks=pytest.mark.slow), "forked"], indirect=True)


def attempts(here: Path) -> list[tuple[str, str]]:
    """What the ledger says: the target of each attempt, and how it ended."""
    found = Ledger(here / "outputs/ledger.sqlite").attempts()
    return [(one.overrides[0].partition("=")[2], one.status) for one in found]


SWEEP = ["run", "-m", "target=corner,hat,shoe,cat", "attack.poison_rate=0.25"]


@WAYS
def test_failed_jobs_are_reported_and_retried_and_done_ones_left_alone(here, capsys):
    assert cli.command(SWEEP) == 1
    assert attempts(here) == [("corner", DONE), ("hat", FAILED), ("shoe", FAILED), ("cat", DONE)]
    printed = capsys.readouterr().out
    assert re.search(r"target=corner +│ done +│ +\d+ │ 0\.250 │", printed)
    assert re.search(r"target=hat +│ failed", printed)
    assert re.search(r"failed: target=hat: the loss became nan \(see \S+1-", printed)
    assert re.search(r"failed: target=shoe: killed by SIGKILL, as the system does when memory runs out", printed)

    (here / "fixed").touch()
    assert cli.command(SWEEP) == 0
    assert attempts(here)[4:] == [("hat", DONE), ("shoe", DONE)]
    printed = capsys.readouterr().out
    assert len(re.findall("done before", printed)) == 2
    assert re.search(r"target=shoe +│ done +│ +\d+ │ 0\.250 │", printed)
    assert "failed" not in printed

    assert cli.command(SWEEP) == 0
    assert len(attempts(here)) == 6
    (page,) = re.findall(r"report: (\S+)", capsys.readouterr().out)
    assert "shoe" in Path(page).read_text()
    runs = find([Path(page).parent])
    assert [run.value("target") for run in runs] == ["corner", "hat", "shoe", "cat"]


@pytest.mark.parametrize("option", ["hydra.output_subdir=.hydra", "hydra/job_logging=default"])
def test_what_hydra_puts_into_a_job_s_folder_is_in_no_job_s_way(here, option, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers])
    assert cli.command(["run", "-m", "target=corner,cat", "attack.poison_rate=0.25", option]) == 0
    assert attempts(here) == [("corner", DONE), ("cat", DONE)]


def test_a_sweep_can_stop_at_its_first_failure(here, capsys):
    assert cli.command([*SWEEP, "sweep.on_failure=stop"]) == 1
    assert attempts(here) == [("corner", DONE), ("hat", FAILED)]
    assert len(re.findall(r"│ waiting", capsys.readouterr().out)) == 2
    assert cli.command([*SWEEP, "sweep.on_failure=stop"]) == 1, "another sweep's failure stops nothing"
    assert attempts(here)[2:] == [("hat", FAILED)]


def test_a_sweep_in_one_folder_can_change(here, capsys):
    """Jobs get other numbers then; none takes another's folder, or its numbers."""
    words = ["run", "-m", "target=corner", "hydra.sweep.dir=table"]
    assert cli.command([*words, "attack.poison_rate=0.1,0.2"]) == 0
    capsys.readouterr()
    assert cli.command([*words, "attack.poison_rate=0.3,0.2,0.1"]) == 0
    assert len(attempts(here)) == 3
    printed = capsys.readouterr().out
    for rate in ("0.1", "0.2", "0.3"):
        assert re.search(rf"poison_rate={rate} +│ done (before)? +│ +\d+ │ {rate}00 │", printed)


@pytest.mark.parametrize("name", ["report.html", "jobs.json"])
def test_a_sweep_leaves_a_folder_alone_that_holds_somebody_s_own(here, name, capsys):
    (here / "mine").mkdir()
    (here / "mine" / name).write_text("mine")
    assert cli.command(["run", "-m", "target=corner", "attack.poison_rate=0.1,0.2", "hydra.sweep.dir=mine"]) == 2
    assert re.search(rf"mine holds {name}, which no sweep of bdiff .* hydra.sweep.dir", capsys.readouterr().err)
    assert [path.name for path in (here / "mine").iterdir()] == [name]
    assert (here / "mine" / name).read_text() == "mine"


def test_a_stopped_sweep_in_one_folder_can_go_on(here):
    words = ["run", "-m", "target=hat,shoe", "attack.poison_rate=0.1", "hydra.sweep.dir=table", "sweep.on_failure=stop"]
    assert cli.command(words) == 1
    (here / "fixed").touch()
    assert cli.command(words) == 0
    assert attempts(here) == [("hat", FAILED), ("hat", DONE), ("shoe", DONE)]


@WAYS
def test_ctrl_c_ends_the_job_and_then_the_sweep(here):
    words = [Path(sys.executable).with_name("bdiff"), "run", "-m", "target=corner", "attack.poison_rate=0.9,0.1"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "running" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    message = process.stderr.read()
    assert process.wait(timeout=30) == 130
    assert "run the same command to resume" in message and "Traceback" not in message
    assert attempts(here) == [("corner", INTERRUPTED)]


def test_joblib_with_one_job_at_a_time_does_all(here):
    """It has no workers then, so that the sweep's own process does its jobs and must not take itself for an orphan."""
    words = [Path(sys.executable).with_name("bdiff"), *SWEEP[:2], "target=corner,cat", "attack.poison_rate=0.25"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert attempts(here) == [("corner", DONE), ("cat", DONE)]


@pytest.mark.parametrize(
    ("launcher", "sweep_process", "gone"),
    [
        ("hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", os.getpid, False),
        ("hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", os.getppid, False),
        ("hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", lambda: 1 << 30, True),
        ("hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher", lambda: 1 << 30, False),
    ],
    ids=["joblib itself", "joblib's worker", "its orphan", "a cluster's"],
)
def test_a_worker_without_its_sweep_is_reported_from_others(monkeypatch, launcher, sweep_process, gone):
    monkeypatch.setenv(sweep.SWEEP, f"{sweep_process()}-123")
    assert abandoned(HydraConf(launcher={"_target_": launcher})) == gone


def test_jobs_that_are_one_are_reported(here, capsys):
    assert cli.command(["run", "-m", "name=a,b"]) == 2
    assert "'name=a' and 'name=b' are the same job" in capsys.readouterr().err
    assert cli.command(["run", "-m", "seed=0,1,0"]) == 2
    assert "seed=0,1,0 has 0 twice: name each value once" in capsys.readouterr().err


def test_rows_with_the_same_settings_are_two_jobs():
    rows = ["experiment=baddiffusion/box_14-corner-p90", "experiment=clipping/box_14-corner-p90-off"]
    assert len({config_key(jobs([row], False)[0]) for row in rows}) == 2


def test_skipped_jobs_leave_no_folders(here):
    cli.command(SWEEP)
    (here / "fixed").touch()
    cli.command(SWEEP)
    second = sorted((here / "outputs/multiruns").glob("*/*"))[-1]
    assert [path.name[0] for path in sorted(second.iterdir()) if path.is_dir()] == ["1", "2"]


def test_a_death_without_words_is_put_into_words(tmp_path):
    output = tmp_path / "output.log"
    output.write_text("Traceback\n\nbdiff: out of luck\n\n")
    assert death(2, output) == "out of luck"
    assert death(-signal.SIGSEGV, output) == "killed by SIGSEGV"
    output.write_text("")
    assert death(3, output) == "ended with exit code 3"


@pytest.mark.parametrize("name", ["plain", "a b", 'quo"te', "com,ma=x", "back\\slash", "br{ac}ket[s]", "dollar$"])
def test_any_folder_can_be_an_override(name):
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quoted(Path('/x') / name)}"])
    assert override.value() == f"/x/{name}"


def test_torchrun_starts_no_sweep(here, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.command(SWEEP) == 2
    assert "torchrun" in capsys.readouterr().err


TINY = [
    "data.limit=64", "train.steps=6", "train.batch_size=8", "sample.count=8", "sample.batch_size=8", "sample.steps=3",
    "model.unet.block_out_channels=[8,8,8]", "metric/fid=none",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_killed_sweep_takes_its_jobs_along_and_goes_on(tmp_path, launcher):
    words = [Path(sys.executable).with_name("bdiff"), "run", "-m", *TINY, f"paths.cache={tmp_path}/cache",
             "attack.poison_rate=0.1,0.2,0.3", "train.lr=1e-3,1e30", "runtime.log_every=1",
             f"hydra/launcher={launcher}"]  # fmt: skip
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[3/6]") and "running" in line:
            break
    time.sleep(2)
    process.kill()
    process.wait()
    ledger = Ledger(tmp_path / "outputs" / "ledger.sqlite")
    before = [one.status for one in ledger.attempts()]
    assert before.count(FAILED) == 1 and "running" in before
    folders = str(tmp_path / "outputs" / "multiruns")
    deadline = time.monotonic() + 60
    while subprocess.run(["pgrep", "-f", folders], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline, "a job outlives its sweep"
        time.sleep(0.5)
    time.sleep(3)
    assert len(ledger.attempts()) == len(before), "a job has begun though its sweep has ended"

    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1
    found = [(one.key, one.status) for one in ledger.attempts()]
    assert {DONE, FAILED} <= {status for _, status in found} <= {DONE, FAILED, LOST, INTERRUPTED}
    done = [key for key, status in found if status == DONE]
    assert len(done) == len(set(done)) == 3
    assert again.stdout.count("failed: ") == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [("joblib", "hydra_joblib_launcher"), ("slurm_here", "hydra_submitit_launcher"), ("ray", "hydra_ray_launcher")],
)
def test_hydras_launchers_do_the_same_jobs(tmp_path, launcher, plugin):
    if not find_spec(f"hydra_plugins.{plugin}"):
        pytest.skip(f"{plugin} is not installed: pip install 'bdiff[cluster]'")
    words = [Path(sys.executable).with_name("bdiff"), "run", "-m", *TINY, f"paths.cache={tmp_path}/cache",
             "seed=0,1", f"hydra/launcher={launcher}"]  # fmt: skip
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    attempts = Ledger(tmp_path / "outputs" / "ledger.sqlite").attempts()
    assert [one.status for one in attempts] == [DONE, DONE] and len({one.key for one in attempts}) == 2
    assert [run.value("seed") for run in find([tmp_path / "outputs" / "multiruns"])] == [0, 1]
