"""Where a run is computed: what was asked for, or an error."""

import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from bdiff.common import device
from bdiff.common.device import fits, open_device, resolve_precision
from bdiff.common.errors import RunError
from bdiff.common.peers import meet


@pytest.fixture(autouse=True)
def fresh():
    """Accelerate as it is in a new process, before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_cpu_is_the_cpu():
    assert open_device("cpu").device == torch.device("cpu") == open_device("cpu").device


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_card_where_there_is_none_is_an_error_also_after_the_cpu(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    open_device("cpu")
    with pytest.raises(RunError, match=f"runtime.device={name}, but torch finds no CUDA device"):
        open_device(name)


def test_a_card_that_accelerate_does_not_give_is_an_error(monkeypatch):
    """As it was before: one state a process, so that a card asked for after the CPU was silently the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "opened_before", lambda: None)  # which would reset the state
    Accelerator(cpu=True)
    with pytest.raises(RunError, match="was asked for, and Accelerate gives cpu"):
        open_device("cuda")


def test_another_device_than_before_starts_accelerate_anew(monkeypatch):
    open_device("cpu")
    PartialState._shared_state["device"] = torch.device("cuda", 0)
    assert open_device("cpu").device.type == "cpu"


@pytest.mark.parametrize(
    ("found", "name", "fit"),
    [("cpu", "cpu", True), ("cuda:0", "cuda", True), ("cuda:1", "cuda:1", True), ("cuda:0", "cuda:1", False),
     ("cpu", "cuda", False), ("cuda:0", "auto", True), ("cuda:0", "cpu", False)],
)  # fmt: skip
def test_whether_a_device_is_the_one_that_was_asked_for(found, name, fit):
    assert fits(torch.device(found), name, cpu=name == "cpu") == fit


@pytest.mark.parametrize(
    ("amx", "avx512", "precision"), [(True, True, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_auto_is_the_precision_that_the_cpu_has_instructions_for(monkeypatch, amx, avx512, precision):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert resolve_precision("auto", torch.device("cpu")) == precision
    assert [resolve_precision(asked, torch.device("cpu")) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]


@pytest.mark.parametrize(("rank", "why"), [("0", "1/2 clients joined"), ("1", "timed out")])
def test_processes_that_never_come_are_waited_for_with_a_line_and_not_for_ever(rank, why, monkeypatch, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=f"127.0.0.1:{port}, which did not join .*{why}.*unset WORLD_SIZE") as caught:
        meet("gloo", within=timedelta(seconds=1), quiet=0.1)
    assert "\n" not in str(caught.value)
    assert f"RANK={rank} of WORLD_SIZE=2 processes waits for the others at 127.0.0.1:{port}" in caplog.text


def test_processes_meet_and_one_alone_waits_for_nobody():
    code = "from bdiff.common.device import open_device; print(open_device('cpu').num_processes)"
    one = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert one.stdout == "1\n"
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    two = subprocess.run([*line, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "".join(two.stdout.split()) == "22"  # two processes write to one pipe, their lines and ends mixed
