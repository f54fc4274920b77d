"""Whether a stage evaluates its network in eager or in compiled mode: chosen once, by the work that it has to do."""

import math
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bdiff.common.device import synchronize
from bdiff.diffusion.engine import TOLERANCE, CompilerFailed, Engine
from bdiff.store import artifacts

FEW = 40  # calls of a network that are over before anything is compiled, so nothing is measured for them either
TRIALS = 3  # timed calls, of which the fastest counts
#: where nothing has been compiled yet, by the device: seconds that it takes, and how many times as fast a call is then
ASSUMED = {"cpu": (60.0, 1.2), "cuda": (90.0, 1.6)}
WARM = 0.25  # of these seconds where a process before has left its compiled kernels on disk


@dataclass(frozen=True)
class Mode:
    """How a stage evaluates its network. `difference` is between the two modes, as `TOLERANCE` has it."""

    compiled: bool
    reason: str
    batch: int
    gradients: bool = False  # whether it is calls with gradients that this is about
    difference: float | None = None

    def __str__(self) -> str:
        return f"{'compiled' if self.compiled else 'eager'} mode ({self.reason})"


@dataclass(frozen=True)
class Work:
    """What is about to be asked of a network."""

    images: int  # to be shown to it
    batch: int  # at a time
    gradients: bool = False  # of its output to its input, too

    @property
    def calls(self) -> int:
        """How often the network is called."""
        return math.ceil(self.images / self.batch)


@dataclass(frozen=True)
class Costs:
    """What compiling was measured to cost and to gain on this machine, kept in `folder` with the compiled kernels."""

    folder: Path

    def path(self, engine: Engine, inputs: tuple[Tensor, ...], work: Work) -> Path:
        """Return the file about a network, its inputs and all else that other kernels would be compiled for."""
        network, device = engine.network, inputs[0].device
        about = {
            "network": str(network),
            "weights": [list(weight.shape) for weight in network.parameters()],
            "inputs": [(list(one.shape[1:]), str(one.dtype)) for one in inputs],
            "work": [engine.precision, work.batch, work.gradients],
            "device": torch.get_num_threads() if device.type == "cpu" else torch.cuda.get_device_name(device),
            "torch": torch.__version__,
        }
        return self.folder / f"{artifacts.digest(about)}.json"

    def expected(self, path: Path, device: torch.device) -> tuple[float, float]:
        """Return the seconds that compiling is expected to take, and the gain in speed."""
        seconds, gain = ASSUMED[device.type]
        known = artifacts.recall(path, dict[str, float]())
        return known.get("warm", WARM * known["cold"] if "cold" in known else seconds), known.get("gain", gain)

    def keep(self, path: Path, seconds: float, gain: float) -> None:
        """Keep what was measured."""
        known = artifacts.recall(path, dict[str, float]())
        artifacts.write_json(path, known | {"warm" if "cold" in known else "cold": seconds, "gain": gain})


def choose(setting: bool | str, engine: Engine, inputs: tuple[Tensor, ...], work: Work, costs: Costs) -> Mode:
    """Return the mode for some work and put the engine into it.

    Args:
        setting: True, False, or auto: compiled where the work that is left pays for it.
        engine: of the network, in eager mode.
        inputs: a batch of what it will be asked, `work.batch` rows.
        work: what is left to do.
        costs: what is known of compiling, which is added to.
    """
    eager = partial(Mode, False, batch=work.batch, gradients=work.gradients)
    if setting is False:
        return eager("runtime.compile=false")
    if setting == "auto" and work.calls < FEW:
        return eager(f"{work.calls} calls of the network pay for no compiling")
    slow, expected = timed(engine, inputs, work)
    path, total = costs.path(engine, inputs, work), slow * work.calls
    seconds, gain = costs.expected(path, inputs[0].device)
    saved = total * (1 - 1 / gain)
    if setting == "auto" and saved < 2 * seconds:  # what is not known well has to pay well
        reason = f"{total:.3g} s of work; compiling takes about {seconds:.2g} s and saves {saved:.2g} s"
        return eager(reason)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(costs.folder / "kernels"))
    began = time.monotonic()
    try:
        engine.compile(work.batch, work.gradients)
        first(engine, inputs, work)
        took = time.monotonic() - began
        fast, found = timed(engine, inputs, work)
    except CompilerFailed as error:
        return eager(f"the compiler failed: {error}")
    gain = slow / fast
    costs.keep(path, took, gain)
    difference = distance(found, expected)
    reason = f"compiled in {took:.3g} s, {gain:.2f} times as fast; {total:.3g} s of eager work"
    off = difference > TOLERANCE[engine.precision]
    if off or (setting == "auto" and gain < 1):
        engine.fall_back()
        return eager(reason + f", but {difference:.2g} off the eager output" * off)
    return Mode(True, reason, work.batch, work.gradients, difference)


def first(engine: Engine, inputs: tuple[Tensor, ...], work: Work) -> list[Tensor]:
    """Return the output for `inputs` and, where the work needs it, the gradient of its sum to the first of them."""
    if not work.gradients:
        with torch.inference_mode():
            return [engine(*inputs)]
    with torch.enable_grad():
        x = inputs[0].detach().clone().requires_grad_()
        output = engine(x, *inputs[1:])
        return [output.detach(), *torch.autograd.grad(output.sum(), x)]


def timed(engine: Engine, inputs: tuple[Tensor, ...], work: Work) -> tuple[float, list[Tensor]]:
    """Return the seconds of a call, the least of some, and what it gave."""
    least = math.inf
    for _ in range(TRIALS):
        synchronize(inputs[0].device)
        began = time.monotonic()
        found = first(engine, inputs, work)
        synchronize(inputs[0].device)
        least = min(least, time.monotonic() - began)
    return least, found


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest root mean square difference, relative to that of what is expected."""
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).square().mean().sqrt() / other.square().mean().sqrt()) for one, other in pairs)
