"""The exponential moving average of weights: diffusers' EMAModel, in place and in one pass."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Average:
    """Averaged weights, with the decay and the state of diffusers' EMAModel, and its bits on a CPU.

    Args:
        weights: to be averaged, in the order of every later call.
        decay: the largest, in [0,1]; after n steps it is (1 + n) / (10 + n) if that is less.
    """

    def __init__(self, weights: Iterable[Tensor], decay: float):
        self.average = [weight.detach().clone() for weight in weights]
        self.most, self.steps = decay, 0

    @property
    def decay(self) -> float:
        """Return what is kept of the average in the last step."""
        done = self.steps - 1
        return min((1 + done) / (10 + done), self.most) if done > 0 else 0.0

    @torch.no_grad()
    def step(self, weights: Iterable[Tensor]) -> None:
        """Take the weights into the average; those that are not trained are there as they are."""
        self.steps += 1
        rest = 1 - self.decay
        pairs = [(one, weight) for one, weight in zip(self.average, weights, strict=True) if weight.requires_grad]
        if pairs and rest < 0.5:  # from there on lerp has another formula
            torch._foreach_lerp_([one for one, _ in pairs], [weight for _, weight in pairs], rest)
            return
        for one, weight in pairs:
            one.sub_(one - weight, alpha=rest)

    @torch.no_grad()
    def copy_to(self, weights: Iterable[Tensor]) -> None:
        """Write the average into the weights."""
        for one, weight in zip(self.average, weights, strict=True):
            weight.copy_(one)

    def state_dict(self) -> dict[str, Any]:
        """Return what EMAModel's checkpoints hold and is not TrainConfig's."""
        return {"optimization_step": self.steps, "shadow_params": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take `state_dict`, or that of EMAModel, back."""
        self.steps = state["optimization_step"]
        for one, kept in zip(self.average, state["shadow_params"], strict=True):
            one.copy_(kept)
