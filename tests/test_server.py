"""The server of a sweep's jobs: each job is as apart from the others as in a Python of its own, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from players import play

from bdiff.launch import process
from bdiff.launch.process import WATCHED, start, watched

#: stands in for the commands of `bdiff` in a job's process, which has bdiff's modules otherwise
PLAYER = """
import json, os, signal, sys, time
match sys.argv[1]:
    case "exit": sys.exit(3)
    case "raise": raise ValueError("no")
    case "abort": os.abort()
    case "kill": os.kill(os.getpid(), signal.SIGKILL)
    case "listen":
        print("listening", flush=True)
        sys.stdin.read()
        sys.exit(130)
    case "hang":
        print("hanging", flush=True)
        time.sleep(600)
import numpy, threadpoolctl, torch
from hydra.core.global_hydra import GlobalHydra
from bdiff.store.threads import settle
settle("auto")
torch.ones(400, 400) @ torch.ones(400, 400)
torch.nn.functional.conv2d(torch.ones(8, 8, 32, 32), torch.ones(8, 8, 3, 3))
print(json.dumps({
    "words": sys.argv[1:], "environment": dict(os.environ), "leads": os.getsid(0) == os.getpid(),
    "server": os.getppid(), "modules": [*sys.modules], "threads": torch.get_num_threads(), "drawn": numpy.random.rand(),
    "pools": [pool["num_threads"] for pool in threadpoolctl.threadpool_info()],
    "hydra": GlobalHydra.instance().is_initialized(), "files": [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)],
    "cuda": torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork()}))
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """A folder whose bdiff is ours but for the player in place of its commands."""
    folder = tmp_path_factory.mktemp("stage")
    play(folder, PLAYER)
    (folder / "random.py").write_text("raise SystemExit('a module of the user, which numpy would import')")
    return folder


@pytest.fixture
def here(stage, monkeypatch):
    """Work in that folder, whose own modules are not what a job imports."""
    monkeypatch.chdir(stage)
    monkeypatch.setenv("PYTHONPATH", str(stage / ".player"))
    return stage


class Job:
    """A player at work, whose output is in a file of its own."""

    def __init__(self, word: str, folder: Path, **environment: str):
        self.path = folder / f"{time.time_ns()}.log"
        self.output = self.path.open("w")
        self.process = start([word, "a=b c"], environment, self.output, "sweep")

    def result(self) -> int:
        """Its exit code; it fails the test if it takes more than a minute."""
        for _ in range(300):
            if (code := self.process.wait(0.2)) is not None:
                self.process.end()
                return code
        raise TimeoutError

    def says(self) -> str:
        """What it has printed, as soon as there is something."""
        for _ in range(300):
            self.process.wait(0.2)
            if told := self.path.read_text():
                return told
        raise TimeoutError


def facts(folder: Path, **environment: str) -> dict:
    """What a job finds."""
    job = Job("facts", folder, **environment)
    assert job.result() == 0, job.path.read_text()
    return json.loads(job.path.read_text()) | {"path": str(job.path)}


def at_work(folder: Path) -> list[int]:
    """The processes that have `folder` as their own, but for this one."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if (one / "cwd").readlink() == folder and (one / "cmdline").read_bytes():
                found.append(int(one.name))
        except OSError:  # it has ended, or is another user's
            continue
    return [number for number in found if number != os.getpid()]


def gone(folder: Path) -> bool:
    """Whether nobody works in `folder` before half a minute is over."""
    deadline = time.monotonic() + 30
    while at_work(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not at_work(folder)


def test_a_job_finds_what_it_would_find_in_a_python_of_its_own(here, monkeypatch):
    monkeypatch.setenv("OF_THE_SWEEP", "1")
    one, two = (facts(here, OMP_NUM_THREADS=str(number), CUDA_VISIBLE_DEVICES=f"{number + 4}") for number in (1, 2))
    assert one["server"] == two["server"] != os.getpid()
    for number, found in enumerate((one, two), 1):
        environment = os.environ | {
            "OMP_NUM_THREADS": str(number), "CUDA_VISIBLE_DEVICES": f"{number + 4}", "BDIFF_WATCHED": "1",
        }  # fmt: skip
        assert found["environment"] == environment
        assert found["words"] == ["facts", "a=b c"]
        assert found["leads"] and not found["hydra"] and not found["cuda"]
        assert found["files"] == [found["path"]] * 2
        assert found["threads"] == number and set(found["pools"]) == {number}
        assert {"diffusers", "bdiff.pipeline.main", "sklearn", "matplotlib.pyplot"} <= {*found["modules"]}
    assert one["drawn"] != two["drawn"]


def test_a_process_that_a_job_starts_is_no_job(monkeypatch):
    monkeypatch.setenv(WATCHED, "1")
    watched.cache_clear()
    assert watched() and WATCHED not in os.environ and watched()
    watched.cache_clear()
    assert not watched()


def test_a_server_has_one_thread_and_opens_no_gpu(here):
    server = facts(here)["server"]
    assert len([*Path(f"/proc/{server}/task").iterdir()]) == 1
    assert not [file for file in Path(f"/proc/{server}/fd").iterdir() if "nvidia" in str(file.readlink())]


@pytest.mark.parametrize(
    ("word", "code", "told"),
    [
        pytest.param("exit", 3, "", marks=pytest.mark.slow),
        ("raise", 1, "ValueError: no"),
        pytest.param("abort", -signal.SIGABRT, "", marks=pytest.mark.slow),
        ("kill", -signal.SIGKILL, ""),
    ],
)
def test_a_job_ends_alone(here, word, code, told):
    before = facts(here)["server"]
    job = Job(word, here)
    assert job.result() == code
    assert (job.path.read_text().splitlines() or [""])[-1] == told
    assert facts(here)["server"] == before


@pytest.mark.slow
def test_a_job_hears_that_its_sweep_is_gone(here):
    job = Job("listen", here)
    assert job.says() == "listening\n"
    job.process.end()
    assert process.kept is not None and process.kept.process.poll() is not None, "an interrupted sweep needs no server"
    assert gone(here)


def test_a_sweep_that_is_interrupted_at_once_starts_nothing(here):
    process.kept = None
    job = Job("exit", here)
    job.process.end()
    assert gone(here) and job.path.read_text() == ""


def test_a_killed_server_ends_its_job_and_no_other(here):
    before = facts(here)["server"]
    job = Job("hang", here)
    assert job.says() == "hanging\n"
    os.kill(before, signal.SIGKILL)
    assert job.result() == -signal.SIGKILL
    assert gone(here)
    assert facts(here)["server"] != before
    process.kept.process.kill()  # between two jobs
    process.kept.process.wait()
    assert Job("exit", here).result() == 3


def test_a_server_that_cannot_start_is_told_of(here, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # where there is no Python
    job = Job("exit", here)
    assert job.result() == 1
    assert "ModuleNotFoundError" in job.path.read_text()


@pytest.mark.slow
def test_jobs_that_libraries_are_loaded_otherwise_for_get_another_server(here, monkeypatch):
    before = facts(here)["server"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert facts(here)["server"] != before
    assert len(at_work(here)) == 1, "the old server has ended"


def test_a_new_python_for_each_job_where_the_user_says_so(here, monkeypatch):
    monkeypatch.setenv(process.JOBS, "new")
    found = facts(here, OMP_NUM_THREADS="2")
    assert found["server"] == os.getpid() and found["threads"] == 2
    assert Job("kill", here).result() == -signal.SIGKILL


#: a sweep's process, which is killed
SWEEP = """
import sys, time
from bdiff.launch.process import start
job = start(["listen"], {}, open("killed.log", "w"), "sweep")
while True: job.wait(1)
"""


def test_nothing_is_left_of_a_sweep_that_is_killed(here):
    assert process.kept is None or process.kept.close() is not None
    sweep = subprocess.Popen([sys.executable, "-P", "-c", SWEEP])
    deadline = time.monotonic() + 60
    while not ((here / "killed.log").exists() and (here / "killed.log").read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(at_work(here)) == 3  # with its server and its job
    sweep.kill()
    sweep.wait()
    assert gone(here)


TINY = [
    "data=digits", "data.limit=64", "train.steps=4", "train.batch_size=8", "sample.count=8", "sample.batch_size=8",
    "sample.triggered=8", "sample.steps=3", "model.unet.block_out_channels=[8,8,8]", "metric/fid=none", "tracker=none",
]  # fmt: skip


def test_numbers_are_those_of_a_run_by_itself(tmp_path):
    records = {}
    for way in ("run", "run -m"):
        words = [*way.split(), *TINY, "runtime.threads=2", f"paths.outputs={tmp_path}/{way[-1]}"]
        command = [Path(sys.executable).with_name("bdiff"), *words, f"paths.cache={tmp_path}/cache"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        (record,) = (tmp_path / way[-1]).glob("*runs/**/metrics.json")
        records[way] = json.loads(record.read_text())
        log = (record.parent / "run.log").read_text().splitlines()
        records[way]["log"] = [line.partition(" INFO ")[2] for line in log]
        rows = map(json.loads, Path(records[way]["history"]).read_text().splitlines())
        records[way]["losses"] = [row | {"images_per_second": None} for row in rows]
    alone, swept = records.values()
    differs = {key for key in alone if alone[key] != swept[key]}
    assert differs <= {"folder", "seconds", "model", "history", "overrides", "provenance"}
