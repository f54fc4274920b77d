"""What compiling would cost and gain in a training: its step, timed and compared before the first one."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bdiff.diffusion.batch import Batch
from bdiff.diffusion.engine import CompilerFailed
from bdiff.diffusion.mode import network_facts
from bdiff.diffusion.step import Step

#: as in `bdiff.diffusion.mode`, of a network, forward and backward
ASSUMED = {"cpu": (200.0, 1.15), "cuda": (150.0, 1.5)}
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}  # of gradients, which are sums of terms that cancel


class Trial:
    """A subject of `bdiff.diffusion.mode.decide`: the loss and the gradients of a batch, which `first` returns."""

    def __init__(self, step: Step, first: Callable[[], Batch]):
        self.step, self.first, self.precision = step, first, step.objective.precision
        self.device = step.accelerator.device
        self.assumed, self.tolerance = ASSUMED[self.device.type], TOLERANCE[self.precision]

    @cached_property
    def batch(self) -> Batch:
        """Return the batch."""
        return self.first()

    def about(self) -> dict[str, Any]:
        """Return the model, the kind of the loss and the batch."""
        loss, pixels = self.step.objective.loss, self.batch.pieces(self.step.most)[0].pixels
        kind = getattr(loss, "__qualname__", type(loss).__qualname__)
        return network_facts(self.step.model) | {"training": [kind, list(pixels.shape), self.precision]}

    def call(self) -> list[Tensor]:
        """Return the loss, and all gradients in one vector; the model stays as it was."""
        model = self.step.model
        buffers = [buffer.clone() for buffer in model.buffers()]  # BatchNorm's statistics
        try:
            loss = self.step.taken(self.batch, 0, together=False)
        except CompilerFailed as error:
            self.step.failed(str(error))
            if self.step.objective.scope is None:
                raise
            return self.call()
        gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        model.zero_grad()
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return [loss.view(1), torch.cat(gradients)]

    def compile(self) -> None:
        """Have the step taken in compiled mode."""
        self.step.compile()

    def fall_back(self) -> None:
        """Have the step taken in eager mode."""
        self.step.fall_back()
