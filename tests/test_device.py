"""Where a run is computed: what was asked for, or an error."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from bdiff import device
from bdiff.device import fits, open_device
from bdiff.errors import RunError


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
