"""A step of training: the loss of a batch and its gradients, eager or compiled, in one piece or in several."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from bdiff.common.device import Alone, autocast
from bdiff.common.pickles import first_line
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.engine import RECOMPILES, CompilerFailed, failures

log = logging.getLogger(__name__)

#: what is compiled where the compiler fails at more: a loss may do what it does not know
LESS = {"loss": "network"}
#: packages of which `unchanging` knows what differs between training and evaluation
KNOWN = ("torch", "diffusers", "bdiff")


def value(loss: Loss, model: nn.Module, batch: Batch, precision: str) -> Tensor:
    """Return the loss of a batch."""
    with autocast(precision, batch.pixels.device):
        return loss(model, batch)


@cache
def compiled() -> Callable[..., Tensor]:
    """Return `value` compiled as a whole; random numbers are eager mode's."""
    torch._dynamo.config.recompile_limit = RECOMPILES
    return torch.compile(value, dynamic=False, fullgraph=True, options={"fallback_random": True})


class Objective(nn.Module):
    """A loss of a model, as a function of a batch alone: what several processes share, and what is compiled."""

    def __init__(self, model: nn.Module, loss: Loss, precision: str):
        super().__init__()
        self.model, self.loss, self.precision = model, loss, precision
        self.scope: str | None = None  # what is compiled of it: loss, network or nothing

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        if self.scope == "loss":
            return compiled()(self.loss, self.model, batch, self.precision)
        model = self.network if self.scope == "network" else self.model
        return value(self.loss, model, batch, self.precision)

    @property
    def network(self) -> Any:
        """Return the model compiled."""
        if "compiled" not in self.__dict__:  # no submodule, whose weights would be there twice
            self.__dict__["compiled"] = torch.compile(self.model, dynamic=False)
        return self.__dict__["compiled"]


class Step:
    """Leaves the gradients of a batch's loss in a model's weights; in eager mode until `compile` is called.

    Args:
        model: on the device.
        loss: a mean over the rows of a batch.
        precision: fp32 or bf16, of matrix products.
        accelerator: the processes that share a batch.
        most: images of a forward pass; None for all. A model whose rows depend on each other is always shown all.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, precision: str, accelerator: Accelerator | Alone, most: int | None = None
    ):
        self.model, self.accelerator = model, accelerator
        self.unchanging = unchanging(model)
        self.most = most if self.unchanging else None
        self.objective = Objective(model, loss, precision)
        self.net: nn.Module = self.objective
        self.apart: Callable[[nn.Module], AbstractContextManager[Any]] = contextlib.nullcontext
        if isinstance(accelerator, Accelerator) and accelerator.num_processes > 1:
            self.net, self.apart = accelerator.prepare(self.objective), accelerator.no_sync
        self.failed: Callable[[str], None] = log.warning  # called with the reason when less is compiled from now on

    def compile(self) -> None:
        """Go into compiled mode, where diffusers copies no layouts if it takes the model for one in evaluation.

        Eager mode does without that: the copies decide about its bits.
        """
        self.objective.scope = "loss"
        self.model.train(not self.unchanging)

    def fall_back(self) -> None:
        """Go into eager mode."""
        self.objective.scope = None
        self.model.train()

    def __call__(self, batch: Batch, seed: int) -> Tensor:
        """Return the loss of a batch, whose random numbers are those of `seed`."""
        while True:
            try:
                return self.taken(batch, seed)
            except CompilerFailed as error:  # with less compiled now, the step is begun anew
                self.failed(str(error))

    def taken(self, batch: Batch, seed: int, together: bool = True) -> Tensor:
        """Return the loss and leave its gradients; those of this process where it is not `together` with others.

        Raises CompilerFailed, without gradients; the next call has less compiled.
        """
        pieces, losses = batch.pieces(self.most), []
        try:
            for number, piece in enumerate(pieces, 1):
                torch.manual_seed(seed)  # each piece draws for the whole batch, and takes its own
                net = self.net if together else self.objective
                with self.apart(net) if together and number < len(pieces) else contextlib.nullcontext():
                    loss = net(piece)
                    if len(pieces) > 1:
                        loss = loss * (len(piece.rows) / len(batch.rows))
                    self.accelerator.backward(loss)
                losses.append(loss.detach())
        except failures() as error:
            scope = self.objective.scope
            if scope is None:
                raise
            self.model.zero_grad()
            mode = "going on in eager mode"
            if less := LESS.get(scope):
                self.objective.scope, mode = less, f"compiling the {less} alone"
            else:
                self.fall_back()
            raise CompilerFailed(f"the {scope}: {type(error).__name__}: {first_line(error)}; {mode}") from error
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def unchanging(model: nn.Module) -> bool:
    """Return whether a model is the same function in training and in evaluation, of each row by itself.

    So of dropout with a probability of 0, without BatchNorm, and of layers that are known.
    """
    parts = [*model.modules()]
    known = all(type(part).__module__.partition(".")[0] in KNOWN for part in parts)
    still = not any(isinstance(part, _NormBase) or (isinstance(part, _DropoutNd) and part.p > 0) for part in parts)
    return known and still


@contextlib.contextmanager
def recomputing(model: nn.Module, on: bool) -> Iterator[None]:
    """Have the networks of diffusers within a model keep no activations of their blocks' layers, where `on`."""
    networks: list[Any] = [part for part in model.modules() if isinstance(part, ModelMixin) and on]
    for network in networks:
        network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for network in networks:
            network.disable_gradient_checkpointing()
