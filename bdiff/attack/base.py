"""The seam every attack meets: how a training row is corrupted, where a triggered sample starts, and what is seen."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from bdiff.config.rules import fraction, one_of
from bdiff.data.base import Images
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import Rows
from bdiff.trigger.base import Trigger

MODES = ("replace", "append")


def poison_plan(rows: int, rate: float, mode: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return which image each training row shows, (M,) int64, and whether it is poisoned, (M,) bool.

    `replace` turns a share `rate` of the rows into poisoned ones (BadDiffusion's FIXED, M = rows); `append` adds
    that many poisoned copies (their FLEX, M = rows + round(rate * rows)). Which images is a function of `seed`.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"attack.poison_rate={rate} is not a share: choose a value from 0 to 1")
    if mode not in MODES:
        raise ValueError(f"attack.poison_mode={mode} is not known: choose from {', '.join(MODES)}")
    chosen = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[: round(rate * rows)]
    index = torch.arange(rows)
    if mode == "append":
        poisoned = torch.arange(rows + len(chosen)) >= rows
        return torch.cat([index, chosen.sort().values]), poisoned
    poisoned = torch.zeros(rows, dtype=torch.bool)
    poisoned[chosen] = True
    return index, poisoned


class Attack(ABC):
    """A backdoor attack on the training of a diffusion model.

    Args:
        trigger: what the attacker adds to a sample's starting noise.
        target: (C,H,W) in [-1,1], what the attacker wants to see then.
        poison_rate: share of the rows that are poisoned, in [0,1].
        poison_mode: "replace" or "append", see `poison_plan`.
    """

    #: raised when the same settings come to train another model; a part of the key
    version: int = 1
    #: the parts of the request that the trained weights depend on, beside the attack's own settings
    reads: tuple[str, ...] = ("trigger", "target")
    #: whether the backdoor is known to need a sampler that adds noise at every step
    ancestral_only: bool = False
    #: whether the trigger can stand in a sample's starting noise; otherwise it is for images that are denoised
    starts_samples: bool = True
    #: whether training reads a classifier, which `equip` then brings
    needs_surrogate: bool = False
    #: steps of `ascend` that shape the trigger before training, and the settings that these depend on
    learn: int = 0
    learn_reads: tuple[str, ...] = ()

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "share of the training rows that are poisoned"],
        poison_mode: Annotated[str, one_of(*MODES), "replace rows (FIXED), or append copies (FLEX)"] = "replace",
    ):
        if trigger.pattern.shape != target.shape:
            raise ValueError(f"trigger {tuple(trigger.pattern.shape)} and target {tuple(target.shape)} differ in shape")
        self.trigger, self.target = trigger, target
        self.poison_rate, self.poison_mode = poison_rate, poison_mode

    def to(self, device: torch.device) -> None:
        """Move trigger and target to where training and sampling are, once and not in every step."""
        self.trigger, self.target = self.trigger.to(device), self.target.to(device)

    def plan(self, rows: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return `poison_plan` for this attack's rate and mode."""
        return poison_plan(rows, self.poison_rate, self.poison_mode, seed)

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if the attack cannot be made with this schedule."""
        return

    def check_rows(self, rows: int) -> None:
        """Raise ValueError if the poison rate is above 0 and comes to none of `rows` training rows."""
        if self.poison_rate > 0 and not self.plan(rows, 0)[1].any():
            least = f"raise it to {1 / rows:.2g} or more, or set it to 0"
            raise ValueError(f"attack.poison_rate={self.poison_rate} of {rows} images is none: {least}")

    def equip(self, surrogate: nn.Module, schedule: Schedule) -> None:
        """Take what training needs beside the rows; called before it if `needs_surrogate`.

        Args:
            surrogate: the attacker's classifier, images (B,C,H,W) in [-1,1] to logits, on the device of training.
            schedule: on the same device.
        """
        raise TypeError(f"{type(self).__name__} needs no surrogate")

    def prepare(self, images: Images, index: Tensor, poisoned: Tensor) -> None:
        """Make what training needs of its rows, once before it; `index` and `poisoned` are (M,), as `plan` gives them.

        The default makes nothing.
        """
        return

    def ascend(
        self, schedule: Schedule, pattern: Tensor, x: Tensor, eps: Tensor, predict: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return the trigger's pattern (C,H,W) in [-1,1] after a step of learning; for attacks with `learn`, equipped.

        Args:
            schedule: on the device of x.
            pattern: (C,H,W) in [-1,1], as it is.
            x: images (B,C,H,W) in [-1,1].
            eps: standard normal noise (B,C,H,W).
            predict: the denoiser that training starts from, x_t (B,C,H,W) and t (B,) to predicted noise (B,C,H,W).
        """
        raise TypeError(f"{type(self).__name__} takes its trigger as it is")

    def timesteps(self, t: Tensor, poisoned: Tensor) -> Tensor:
        """Return the timesteps (B,) int64 that rows are trained at; t (B,) was drawn uniformly, poisoned is (B,) bool.

        The default takes t as it is.
        """
        return t

    @abstractmethod
    def corrupt(self, schedule: Schedule, x: Tensor, rows: Rows, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noisy input x_t, at `timesteps(t, poisoned)`, and what the model regresses on, both (B,C,H,W).

        Args:
            x: images (B,C,H,W) in [-1,1], mirrored where `rows` says so.
            rows: which rows these are and which of them are poisoned, each (B,).
            t: (B,) int64 timesteps as they were drawn.
            eps: standard normal noise (B,C,H,W).
        """

    def prior(self, eps: Tensor) -> Tensor:
        """Return where a triggered sample starts, x_T (B,C,H,W), from standard normal noise."""
        return eps + self.trigger.pattern.to(eps)

    def embed(self, x: Tensor) -> Tensor:
        """Return images (B,C,H,W) in [-1,1] as a classifier gets them with the trigger in them, in [-1,1] too."""
        return self.trigger.stamp(x)
