"""Where the jobs of a sweep run: cores, and GPUs with as many jobs as are asked for or have room."""

import os
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bdiff.launch import place as places
from bdiff.launch.place import place


def stays() -> bool:
    """Whether a sweep that is there is gone."""
    return False


def test_jobs_share_cores_and_gpus(tmp_path, monkeypatch):
    config = OmegaConf.create({"runtime": {"device": "auto"}, "sweep": {"jobs_per_gpu": 1}})
    monkeypatch.setattr(places.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(places.threads, "allowed", lambda: 8)  # of any number that the machine has
    monkeypatch.setattr(places, "visible_gpus", lambda: [])
    with (
        place(config, 1, stays) as alone,
        place(config, 4, stays) as one_of_four,
        place(config, -1, stays) as one_of_all,
    ):
        assert (alone, one_of_four, one_of_all) == ({}, {"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "1"})
    monkeypatch.setenv(places.TO_RUN, "1")
    with place(config, 4, stays) as the_only_one:
        assert the_only_one == {"OMP_NUM_THREADS": "8"}, "though four could run at a time"
    monkeypatch.setattr(places, "visible_gpus", lambda: ["3", "5"])
    with place(config, 4, stays) as first:
        with place(config, 4, stays) as second:
            assert [first, second] == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
            third: list[dict[str, str]] = []

            def wait() -> None:
                with place(config, 4, stays) as found:
                    third.append(found)

            waiter = threading.Thread(target=wait)
            waiter.start()
            time.sleep(0.7)
            assert not third
        waiter.join(timeout=10)
        assert third == [{"CUDA_VISIBLE_DEVICES": "5"}]
        with pytest.raises(KeyboardInterrupt), place(config, 4, stays), place(config, 4, lambda: True):
            pytest.fail("a place for a sweep that is gone")
    config.sweep.jobs_per_gpu = 2
    with place(config, 4, stays) as a, place(config, 4, stays) as b, place(config, 4, stays) as c:
        assert [one["CUDA_VISIBLE_DEVICES"] for one in (a, b, c)] == ["3", "5", "3"]
    config.runtime.device = "cuda:1"
    with place(config, 4, stays) as named:
        assert named == {}


def test_visible_gpus_are_those_the_user_lets_be_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,4")
    assert places.visible_gpus() == ["1", "4"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert places.visible_gpus() == []


def smi(folder: Path, answer: str) -> None:
    """Put an nvidia-smi into a folder that answers so."""
    script = folder / "nvidia-smi"
    script.write_text(f'#!/bin/sh\necho "{answer}"\n')
    script.chmod(0o755)


@pytest.mark.parametrize(
    ("answer", "shared"),
    [
        ("30, 2000, 80000", True),
        ("95, 2000, 80000", False),  # it computes all the time
        ("30, 50000, 80000", False),  # a second job like the first has no memory
        ("[N/A], 2000, 80000", False),  # it does not say
    ],
)
def test_a_gpu_takes_a_further_job_where_those_that_are_there_leave_room(tmp_path, monkeypatch, answer, shared):
    smi(tmp_path, answer)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(places, "PAUSE", 0.0)
    first = places.claim(tmp_path, ["0"], "auto")
    assert first is not None and places.claim(tmp_path, ["0"], "auto") is None  # the first has not settled yet
    os.utime(tmp_path / "0.newest", (0, 0))
    second = places.claim(tmp_path, ["0"], "auto")
    assert (second is not None) == shared
    for one in filter(None, (first, second)):
        one[1].release()


def test_without_nvidia_smi_a_gpu_has_one_job(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert places.usage("0") is None and not places.has_room("0", jobs=1)
