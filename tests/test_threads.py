"""How many threads a run computes with: by what is allowed and free, and for a stage what it began with."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bdiff.data import load, verify
from bdiff.store import artifacts, threads


@pytest.mark.parametrize(
    ("files", "expected", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5, 1),
        ({"cpu.max": "max 100000\n"}, None, 8),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, 8),
        ({"cpu.max": "what?\n"}, None, 8),
        ({}, None, 8),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, files, expected, cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(8)})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.quota(tmp_path) == expected
    assert threads.allowed(tmp_path) == cores


STAT = """cpu  20 0 20 160 0 0 0 0 0 0
cpu0 10 0 10 {0} 10 0 0 0 0 0
cpu1 10 0 10 {1} 10 0 0 0 0 0
intr 1 2 3
"""


def test_ticks_of_the_cores(tmp_path):
    (tmp_path / "stat").write_text(STAT.format(70, 80))
    assert threads.idle(tmp_path / "stat") == {0: (80, 100), 1: (90, 110)}
    assert threads.idle(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("idle", "free"),
    [((20, 20), 2), ((0, 20), 1), ((0, 0), 1), ((20, 15), 2), ((20, 8), 1), ((10, 10), 1), ((14, 20), 2)],
)
def test_free_cores_are_those_that_were_idle(monkeypatch, idle, free):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    looks = iter([{0: (100, 500), 1: (100, 500), 7: (0, 500)},
                  {0: (100 + idle[0], 520), 1: (100 + idle[1], 520), 7: (20, 520)}])  # fmt: skip
    assert threads.free(2, lambda: next(looks), seconds=0) == free


def test_where_nothing_is_reported_all_cores_are_free():
    assert threads.free(3, dict, seconds=0) == 3


def test_the_setting_wins_then_the_environment_then_what_is_free(monkeypatch):
    monkeypatch.setattr(threads, "free", lambda cores: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert (threads.choose(5), threads.choose("auto")) == (5, 3)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads.choose("auto") == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert threads.choose("auto") == 1


CHILD = """
import os, sys
from bdiff.store import threads
threads.settle({0!r})
assert "torch" not in sys.modules
import torch
print(torch.get_num_threads(), os.environ["GOMP_SPINCOUNT"])
"""


def test_threads_are_settled_before_torch_is_loaded():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", CHILD.format(1)], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1", threads.SPINS], done.stderr


@pytest.fixture
def torchs_own():
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_where_torch_is_loaded_its_own_setting_applies(torchs_own):
    assert threads.settle(2) == torch.get_num_threads() == 2


def test_a_stage_goes_on_with_the_threads_it_began_with(tmp_path, torchs_own, caplog):
    torch.set_num_threads(2)
    threads.begin(tmp_path)
    torch.set_num_threads(1)
    threads.begin(tmp_path)  # it has begun before
    with caplog.at_level("INFO"), threads.kept(tmp_path):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1 and "resuming with the 2 threads" in caplog.text
    assert artifacts.read_json(tmp_path / threads.KEPT) == 2


@pytest.mark.parametrize("module", [load, verify])
def test_pictures_are_decoded_by_as_many_threads_as_there_are_cores_allowed(module, tmp_path, monkeypatch):
    def pool(count):
        raise InterruptedError(count)

    monkeypatch.setattr(threads, "allowed", lambda: 5)
    monkeypatch.setattr(module, "ThreadPoolExecutor", pool)
    source, request = SimpleNamespace(labelled=(np.zeros(3), ("a",))), SimpleNamespace(shape=(1, 8, 8))
    with pytest.raises(InterruptedError, match="5"):
        if module is load:
            load.decode(source, np.arange(3), artifacts.stage(tmp_path, "data", 1), request)
        verify.picture_problems(source, np.arange(3), request)
