"""Whether a stage evaluates its network in eager or in compiled mode: chosen once, by the work that it has to do."""

import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bdiff.common.device import synchronize
from bdiff.diffusion.engine import TOLERANCE, CompilerFailed, Engine
from bdiff.store import artifacts

log = logging.getLogger(__name__)

FEW = 40  # calls of a network that are over before anything is compiled, so nothing is measured for them either
TRIALS = 3  # timed calls, of which the fastest counts
#: where nothing has been compiled yet, by the device: seconds that it takes, and how many times as fast a call is then
ASSUMED = {"cpu": (60.0, 1.2), "cuda": (90.0, 1.6)}
WARM = 0.25  # of these seconds where a process before has left its compiled kernels on disk
KEPT = "modes.json"  # in the folder of a stage
TORN = 600.0  # seconds after which nobody is at work on an empty library any more


MEASURED: set[Path] = set()  # files of `Costs` about what this process has compiled


@dataclass(frozen=True)
class Mode:
    """How a stage evaluates its network.

    `difference` is between the two modes, as `TOLERANCE` has it; None if the stage never went into compiled mode.
    """

    compiled: bool
    reason: str
    batch: int
    gradients: bool = False  # whether it is calls with gradients that this is about
    difference: float | None = None

    def __str__(self) -> str:
        return f"{'compiled' if self.compiled else 'eager'} mode ({self.reason})"

    def keep(self, folder: Path, purpose: str) -> None:
        """Write the mode into the folder of a stage, which goes on with it when it is taken up again.

        `purpose` tells the networks of a stage apart.
        """
        known = artifacts.recall(folder / KEPT, dict[str, Any]())
        artifacts.write_json(folder / KEPT, known | {purpose: asdict(self)})

    def under(self, setting: bool | str) -> "Mode":
        """Return the mode that a stage goes on in, where `runtime.compile` is now `setting`."""
        if setting is False and self.compiled:
            return replace(self, compiled=False, reason=f"{self.reason}; then runtime.compile=false")
        return self

    @classmethod
    def kept(cls, folder: Path, purpose: str) -> "Mode | None":
        """Return the mode that a stage began with; None where it has not begun."""
        return cls.every(folder).get(purpose)

    @classmethod
    def every(cls, folder: Path) -> "dict[str, Mode]":
        """Return all modes of a stage by their purpose."""
        found = artifacts.recall(folder / KEPT, dict[str, Any]())
        fields = {*cls.__dataclass_fields__}
        return {purpose: cls(**one) for purpose, one in found.items() if {*one} == fields}


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


class Subject(Protocol):
    """What may be compiled, in eager mode at first."""

    @property
    def assumed(self) -> tuple[float, float]:
        """Seconds that compiling takes, and how many times as fast a call is then, where nothing is known of it."""

    @property
    def tolerance(self) -> float:
        """How far what `call` gives in compiled mode may be from eager mode, as `distance` has it."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    def about(self) -> dict[str, Any]:
        """Return all that other kernels would be compiled for."""

    def call(self) -> list[Tensor]:
        """Return what one call gives, which leaves nothing behind. Raises CompilerFailed; the next call is eager."""

    def compile(self) -> None:
        """Go into compiled mode."""

    def fall_back(self) -> None:
        """Go back into eager mode."""


@dataclass(frozen=True)
class Costs:
    """What compiling was measured to cost and to gain on this machine, kept in `folder` with the compiled kernels."""

    folder: Path

    def path(self, subject: Subject) -> Path:
        """Return the file about what is compiled."""
        device = subject.device
        about = subject.about() | {
            "device": torch.get_num_threads() if device.type == "cpu" else torch.cuda.get_device_name(device),
            "torch": torch.__version__,
        }
        return self.folder / f"{artifacts.digest(about)}.json"

    def expected(self, subject: Subject) -> tuple[float, float]:
        """Return the seconds that compiling is expected to take, and the gain in speed."""
        seconds, gain = subject.assumed
        known = artifacts.recall(self.path(subject), dict[str, float]())
        return known.get("warm", WARM * known["cold"] if "cold" in known else seconds), known.get("gain", gain)

    def keep(self, subject: Subject, seconds: float, gain: float) -> None:
        """Keep what was measured, unless this process had compiled the same before and took no time for it."""
        path = self.path(subject)
        known = artifacts.recall(path, dict[str, float]())
        if path in MEASURED:
            return
        MEASURED.add(path)
        artifacts.write_json(path, known | {"warm" if "cold" in known else "cold": seconds, "gain": gain})

    def use(self) -> None:
        """Have compiled kernels kept here, where later processes find them."""
        without_torn(Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self.folder / "kernels"))))


@cache
def without_torn(kernels: Path) -> None:
    """Remove the libraries that a killed compiler has left empty in the folder: torch would fail at them for ever.

    Those of the last minutes are kept, as a compiler may be at work on them.
    """
    for path in kernels.rglob("*.so"):
        with suppress(FileNotFoundError):  # removed by another process
            about = path.stat()
            if not about.st_size and time.time() - about.st_mtime > TORN:
                path.unlink()


@dataclass(frozen=True)
class Inference:
    """An engine with a batch of what it will be asked."""

    engine: Engine
    inputs: tuple[Tensor, ...]  # `work.batch` rows
    work: Work

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return self.inputs[0].device

    @property
    def assumed(self) -> tuple[float, float]:
        """As `Subject` has it."""
        return ASSUMED[self.device.type]

    @property
    def tolerance(self) -> float:
        """That of the engine's precision."""
        return TOLERANCE[self.engine.precision]

    def about(self) -> dict[str, Any]:
        """Return the network, its inputs and the work."""
        return network_facts(self.engine.network) | {
            "inputs": [(list(one.shape[1:]), str(one.dtype)) for one in self.inputs],
            "work": [self.engine.precision, self.work.batch, self.work.gradients],
        }

    def call(self) -> list[Tensor]:
        """Return the output and, where the work needs it, the gradient of its sum to the first input."""
        if not self.work.gradients:
            with torch.inference_mode():
                return [self.engine(*self.inputs)]
        with torch.enable_grad():
            x = self.inputs[0].detach().clone().requires_grad_()
            output = self.engine(x, *self.inputs[1:])
            return [output.detach(), *torch.autograd.grad(output.sum(), x)]

    def compile(self) -> None:
        """Have the engine evaluate in compiled mode."""
        self.engine.compile(self.work.batch, self.work.gradients)

    def fall_back(self) -> None:
        """Have the engine evaluate in eager mode."""
        self.engine.fall_back()


def network_facts(network: torch.nn.Module) -> dict[str, Any]:
    """Return what is compiled of a network, whatever its weights."""
    return {"network": str(network), "weights": [list(weight.shape) for weight in network.parameters()]}


def choose(setting: bool | str, engine: Engine, inputs: tuple[Tensor, ...], work: Work, costs: Costs) -> Mode:
    """Return the mode for some work and put the engine into it.

    Args:
        setting: True, False, or auto: compiled where the work that is left pays for it.
        engine: of the network, in eager mode.
        inputs: a batch of what it will be asked, `work.batch` rows.
        work: what is left to do.
        costs: what is known of compiling, which is added to.
    """
    mode = decide(setting, Inference(engine, inputs, work), work.calls, work.batch, costs)
    return replace(mode, gradients=work.gradients)


def decide(setting: bool | str, subject: Subject, calls: int, batch: int, costs: Costs) -> Mode:
    """Return the mode for `calls` calls of `batch` images and put the subject into it; see `choose`."""
    if setting is False:
        return Mode(False, "runtime.compile=false", batch)
    if setting == "auto" and calls < FEW:
        return Mode(False, f"{calls} calls of the network pay for no compiling", batch)
    eager, expected = timed(subject)
    total, (seconds, gain) = eager * calls, costs.expected(subject)
    saved = total * (1 - 1 / gain)
    if setting == "auto" and saved < 2 * seconds:  # what is not known well has to pay well
        reason = f"{total:.3g} s of work; compiling takes about {seconds:.3g} s and saves {saved:.2g} s"
        return Mode(False, reason, batch)
    costs.use()
    began = time.monotonic()
    try:
        subject.compile()
        subject.call()
        took = time.monotonic() - began
        fast, found = timed(subject)
    except CompilerFailed as error:
        return Mode(False, f"the compiler failed: {error}", batch)
    gain = eager / fast
    costs.keep(subject, took, gain)
    difference = distance(found, expected)
    reason = f"compiled in {took:.3g} s, {gain:.2f} times as fast; {total:.3g} s of eager work"
    off = difference > subject.tolerance
    if off or (setting == "auto" and gain < 1):
        subject.fall_back()
        return Mode(False, reason + f", but {difference:.2g} off the eager output" * off, batch)
    return Mode(True, reason, batch, difference=difference)


def log_mode(name: str, mode: Mode, setting: bool | str, calls: int) -> None:
    """Log a mode that was chosen for `calls` calls, unless there was no choice or hardly any work."""
    if setting is not False and (setting is True or calls >= FEW):
        log.info("%s: %s", name, mode)


def timed(subject: Subject) -> tuple[float, list[Tensor]]:
    """Return the seconds of a call, the least of some, and what it gave."""
    least = math.inf
    for _ in range(TRIALS):
        synchronize(subject.device)
        began = time.monotonic()
        found = subject.call()
        synchronize(subject.device)
        least = min(least, time.monotonic() - began)
    return least, found


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest root mean square difference, relative to that of what is expected."""
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).square().mean().sqrt() / other.square().mean().sqrt()) for one, other in pairs)
