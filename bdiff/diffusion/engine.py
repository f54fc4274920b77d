"""How a frozen network is evaluated: as it is, or compiled. It stands behind `Denoiser`, so no method knows of it."""

import logging
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bdiff.common.device import autocast
from bdiff.common.pickles import first_line

log = logging.getLogger(__name__)
T = TypeVar("T")

#: how far a compiled network's output may be from the eager one's: a root mean square relative to that of the latter
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
RECOMPILES = 64  # variants (batches, dtypes, gradients) that one process may compile; torch's own limit is 8

#: of a network and its inputs (B,...), its output (B,...)
Evaluate = Callable[..., Tensor]


class CompilerFailed(Exception):
    """The compiler failed at a network; from then on its engine is eager."""


@cache
def compiled(evaluate: Evaluate, graphs: bool) -> Evaluate:
    """Return `evaluate` compiled for static shapes: one for all networks of an architecture, whose weights are inputs.

    `graphs`: by CUDA graphs, which need a call's output to be copied before the next call.
    """
    torch._dynamo.config.recompile_limit = RECOMPILES
    options: dict[str, Any] = {"triton.cudagraphs": True} if graphs else {}
    return torch.compile(evaluate, dynamic=False, fullgraph=True, options=options)


class Engine:
    """Evaluates a network, in eager mode until `compile` is called.

    Args:
        network: frozen, in eval mode.
        evaluate: a function of the module's top level, `evaluate(network, *inputs)`.
        precision: fp32 or bf16, of matrix products.
    """

    def __init__(self, network: nn.Module, evaluate: Evaluate, precision: str):
        self.network, self.evaluate, self.precision = network, evaluate, precision
        self.batch: int | None = None  # the static batch size in compiled mode; None: eager
        self.gradients = False  # whether it is calls with gradients that are compiled, and not those without
        self.cast: nn.Module | None = None  # the weights of compiled mode
        self.failure: str | None = None  # why it fell back to eager mode

    def compile(self, batch: int, gradients: bool = False) -> None:
        """Evaluate in compiled mode from now on, `batch` inputs at a time; calls of the other kind stay eager.

        Weights are cast once to the working precision, in the layout that compiled kernels prefer. `gradients` says
        which kind it is: calls whose input needs a gradient, or those whose input needs none.
        """
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        with torch.inference_mode(False):  # or gradients could not go through the copy
            copy = nn.Module.to(deepcopy(self.network), dtype)  # diffusers' own `to` would warn
            self.cast = copy.to(memory_format=torch.channels_last)
        self.batch, self.gradients = batch, gradients

    def fall_back(self, reason: str | None = None) -> None:
        """Evaluate in eager mode from now on; `reason`: what failed."""
        self.batch, self.cast, self.failure = None, None, reason

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the network's output (B,...) of inputs (B,...). Raises CompilerFailed; the next call is eager."""
        if self.batch is None or self.gradients != (torch.is_grad_enabled() and inputs[0].requires_grad):
            with autocast(self.precision, inputs[0].device):
                return self.evaluate(self.network, *inputs)
        parts = zip(*(one.split(self.batch) for one in inputs), strict=True)
        found = [self.static(*part) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def static(self, *inputs: Tensor) -> Tensor:
        """Return the compiled output of at most `batch` inputs, padded to the one static shape."""
        assert self.batch is not None and self.cast is not None
        count = len(inputs[0])
        graphs = inputs[0].is_cuda and not self.gradients
        x, *others = (pad(one, self.batch) for one in inputs)
        if x.is_floating_point():
            x = x.to(next(self.cast.parameters()).dtype)
        others = [one.float() for one in others]  # timesteps, which samplers have as whole numbers or as fractions
        try:
            if graphs:
                torch.compiler.cudagraph_mark_step_begin()
            output = compiled(self.evaluate, graphs)(self.cast, x, *others)
        except failures() as error:
            self.fall_back(f"{type(error).__name__}: {first_line(error)}")
            raise CompilerFailed(self.failure) from error
        return output[:count].clone() if graphs else output[:count]


def failures() -> tuple[type[Exception], ...]:
    """Return what torch raises where it cannot compile; a failure of the network itself is none of these."""
    from torch._dynamo import exc
    from torch._inductor import exc as inductor

    return (
        exc.TorchDynamoException,
        exc.FailOnRecompileLimitHit,
        inductor.OperatorIssue,
        inductor.CppCompileError,
        inductor.InvalidCxxCompiler,
    )


def pad(x: Tensor, size: int) -> Tensor:
    """Return x (B,...) with its last row repeated up to `size` rows, contiguous."""
    if len(x) < size:
        x = torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])
    return x.contiguous()


def steady(work: Callable[[], T]) -> T:
    """Return `work()`, begun anew in eager mode where a compiler fails in the middle of it."""
    while True:
        try:
            return work()
        except CompilerFailed as error:  # whose engine is eager now
            log.warning("%s: going on in eager mode", error)
