"""The device that a run computes on, and the precision it computes in."""

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from bdiff.common.errors import RunError
from bdiff.common.peers import meet

MEMINFO = Path("/proc/meminfo")


def open_device(name: str) -> Accelerator:
    """Return Accelerate's handle on `name` (auto, cpu, cuda or cuda:N) and on the processes that share the run.

    Precision is ours (`autocast`), not Accelerate's, so that one process can run stages in different ones. Raises
    RunError if the device is not available, since Accelerate would silently use another one, or if the other
    processes do not join.
    """
    cpu = name == "cpu" or (name == "auto" and not torch.cuda.is_available())
    if not cpu:
        if not torch.cuda.is_available():
            raise RunError(f"runtime.device={name}, but torch finds no CUDA device here: use cpu or auto")
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    for left in [name for name in os.environ if name.startswith("ACCELERATE_")]:  # of an earlier call, or of a user's
        del os.environ[left]  # other programs, whose precision and plugins are not asked for here
    if ":" in name:
        os.environ["ACCELERATE_TORCH_DEVICE"] = name
        torch.cuda.set_device(name)
    if (opened := opened_before()) is not None and not fits(opened, name, cpu):
        AcceleratorState._reset_state(reset_partial_state=True)  # one a process, which keeps the first device
    meet("gloo" if cpu else "nccl")
    found = Accelerator(cpu=cpu, mixed_precision="no")
    if not fits(found.device, name, cpu):
        raise RunError(f"runtime.device={name} was asked for, and Accelerate gives {found.device}")
    return found


def opened_before() -> torch.device | None:
    """Return the device that this process's Accelerate has, None if it has none or shares a run with others."""
    state = PartialState._shared_state
    return state["device"] if state and state["num_processes"] == 1 else None


def fits(device: torch.device, name: str, cpu: bool) -> bool:
    """Return whether `device` is what `name` asks for; `cpu` says what auto means here."""
    expected = torch.device("cpu" if cpu else "cuda" if name == "auto" else name)
    return device.type == expected.type and (expected.index is None or device.index == expected.index)


class Alone:
    """Accelerate's interface for a process that works alone while the other processes of its run wait."""

    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, device: torch.device):
        self.device = device

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of `loss`."""
        loss.backward()

    def wait_for_everyone(self) -> None:
        """Wait for nobody."""

    def reduce(self, x: Tensor, how: str) -> Tensor:
        """Return x, which is the mean and the sum over one process."""
        return x


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return bf16 or fp32; `auto` is bf16 if the device supports it in hardware (AMX or AVX512_BF16, on a CPU)."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return the context in which matrix products run in `precision`."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Late:
    """An asynchronous copy of a tensor, or of all those in nested containers, to the CPU."""

    def __init__(self, value: Any):
        # Into pinned memory, by torch's own choice, and in the device's own order: what changes later is not copied.
        self.copy = tree_map_only(Tensor, lambda x: x.detach().to("cpu", non_blocking=True), value)
        waits = any(isinstance(x, Tensor) and x.device.type == "cuda" for x in tree_leaves(value))
        self.arrival = torch.cuda.Event() if waits else None
        if self.arrival:
            self.arrival.record()

    @property
    def ready(self) -> bool:
        """Whether `read` would return without waiting."""
        return self.arrival is None or self.arrival.query()

    def read(self) -> Any:
        """Return it, waiting only for work that was queued on the device before the copy."""
        if self.arrival:
            self.arrival.synchronize()
        return self.copy


@contextmanager
def memory_errors(name: str, device: torch.device, hint: str) -> Iterator[None]:
    """Turn an error for lack of memory, while `name` computes on `device`, into a RunError with a hint what to set."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch's allocator raises a plain RuntimeError.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known:
            raise
        why = str(error).partition("\n")[0] or type(error).__name__
        raise RunError(
            f"{name} ran out of memory on {device} ({why}): {hint}; runtime.plan=true estimates what a run needs"
        ) from error


def spare(device: torch.device) -> int:
    """Return how many bytes may be used as a cache on `device`: a quarter of its free memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 4
    return free_memory() // 4


def free_memory() -> int:
    """Return the bytes of this machine's memory that are free, with what Linux gives back of its page cache."""
    if MEMINFO.is_file() and (found := re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on `device` without waiting for the work queued there.

    A copy from pageable memory would wait, so it goes through pinned memory, which torch frees after the copy.
    """
    if device.type != "cuda" or x.device.type == "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
