"""The losses of a descent, copied from the device asynchronously, so that steps do not wait for them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bdiff.common.device import Late
from bdiff.common.errors import RunError

STEPS = 20  # losses that are copied together


class Curve:
    """The loss at every step, of one descent or of several in a batch.

    `watch` is called at each step with a short status. On an asynchronous device, the status has the newest loss that
    has been read.
    """

    def __init__(self, name: str, lr: float, watch: Callable[[str], None]):
        self.name, self.lr, self.watch = name, lr, watch
        self.waiting: list[Tensor] = []  # on the device
        self.coming: list[Late] = []
        self.known: list[list[float]] = []  # of each step, those of every descent

    def add(self, loss: Tensor) -> None:
        """Add the losses (R,) of the next step, or one. Raises RunError if one that has been read is not finite."""
        self.waiting.append(loss.detach().view(-1))
        if loss.device.type == "cpu" or len(self.waiting) == STEPS:
            self.send()
        while self.coming and self.coming[0].ready:
            self.read()
        self.watch(f"loss {min(self.known[-1]):.4f}" if self.known else "")

    def send(self) -> None:
        """Start copying the waiting losses to the CPU."""
        self.coming.append(Late(torch.stack(self.waiting)))
        self.waiting.clear()

    def read(self) -> None:
        """Read the oldest losses that are being copied."""
        self.known += self.coming.pop(0).read().tolist()
        for step, losses in enumerate(self.known):
            if bad := [loss for loss in losses if not math.isfinite(loss)]:
                raise RunError(f"{self.name}: the loss became {bad[0]} at step {step}: lower its lr={self.lr}")

    def values(self) -> list[float]:
        """Return all losses of the only descent. Raises RunError if one is not finite."""
        return [loss for losses in self.each() for loss in losses]

    def all(self) -> list[list[float]]:
        """Return the losses of each step so far, of every descent. Raises RunError if one is not finite."""
        if self.waiting:
            self.send()
        while self.coming:
            self.read()
        return self.known

    def go_on(self, losses: list[list[float]]) -> None:
        """Take up a killed descent after these steps."""
        self.known = losses
        for _ in losses:
            self.watch("")

    def each(self) -> list[list[float]]:
        """Return all losses of each descent. Raises RunError if one is not finite."""
        return [list(losses) for losses in zip(*self.all(), strict=True)]
