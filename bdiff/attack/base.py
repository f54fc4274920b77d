"""The seam every attack meets: how training rows are poisoned, where a triggered sample starts, and what is seen."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bdiff.config.rules import fraction, one_of
from bdiff.data.base import Images
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import Draw, Noised, Rows
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.view import View
from bdiff.trigger.base import Trigger

MODES = ("replace", "append")


class Plan(NamedTuple):
    """The rows of a training set, M of them."""

    shown: Tensor  # (M,) int64, which image each row shows
    poisoned: Tensor  # (M,) bool


def poison_plan(rows: int, rate: float, mode: str, seed: int) -> Plan:
    """Return which image each training row shows, and which rows are poisoned.

    `replace` turns a fraction `rate` of the rows into poisoned ones (BadDiffusion's FIXED, M = rows); `append` adds
    that many poisoned copies (their FLEX, M = rows + round(rate * rows)). Which images is a function of `seed`.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"attack.poison_rate={rate} is not a fraction: choose a value from 0 to 1")
    if mode not in MODES:
        raise ValueError(f"attack.poison_mode={mode} is not known: choose from {', '.join(MODES)}")
    chosen = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[: round(rate * rows)]
    index = torch.arange(rows)
    if mode == "append":
        poisoned = torch.arange(rows + len(chosen)) >= rows
        return Plan(torch.cat([index, chosen.sort().values]), poisoned)
    poisoned = torch.zeros(rows, dtype=torch.bool)
    poisoned[chosen] = True
    return Plan(index, poisoned)


@dataclass(frozen=True)
class Parts:
    """What an attack may read before training, on the device of training."""

    schedule: Schedule
    surrogate: nn.Module | None = None  # the attacker's classifier, images (B,C,H,W) in [-1,1] to logits


class Attack(ABC):
    """A backdoor attack on the training of a diffusion model.

    Args:
        trigger: what the attacker adds to a sample's starting noise.
        target: (C,H,W) in [-1,1], what the attacker wants to see then.
        poison_rate: fraction of the rows that are poisoned, in [0,1].
        poison_mode: "replace" or "append", see `poison_plan`.
    """

    #: raised when the same settings come to train another model; a part of the key
    version: ClassVar[int] = 1
    #: the parts of the request that the trained weights depend on, beside the attack's own settings
    reads: ClassVar[tuple[str, ...]] = ("trigger", "target")
    #: whether the trigger can stand in a sample's starting noise; otherwise it is for images that are denoised
    starts_samples: ClassVar[bool] = True
    #: whether training reads a classifier, which `prepare` then brings
    needs_surrogate: ClassVar[bool] = False
    #: the settings that a trigger learned before training depends on
    learn_reads: ClassVar[tuple[str, ...]] = ()
    #: steps of `update_trigger` before training
    learn: int = 0

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "fraction of the training rows that are poisoned"],
        poison_mode: Annotated[str, one_of(*MODES), "replace rows (FIXED), or append copies (FLEX)"] = "replace",
    ):
        if trigger.pattern.shape != target.shape:
            raise ValueError(f"trigger {tuple(trigger.pattern.shape)} and target {tuple(target.shape)} differ in shape")
        self.trigger, self.target = trigger, target
        self.poison_rate, self.poison_mode = poison_rate, poison_mode

    def to(self, device: torch.device) -> None:
        """Move trigger and target to where training and sampling are, once and not in every step."""
        self.trigger, self.target = self.trigger.to(device), self.target.to(device)

    def rows(self, labels: Tensor, seed: int) -> Plan:
        """Return the rows of a training set over images of `labels` (N,) int64: `poison_plan` by default."""
        return poison_plan(len(labels), self.poison_rate, self.poison_mode, seed)

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if the attack cannot be made with this schedule."""
        return

    def check_rows(self, labels: Tensor) -> None:
        """Raise ValueError if the poison rate is above 0 and comes to none of the rows of images of `labels` (N,)."""
        if self.poison_rate > 0 and not self.rows(labels, 0).poisoned.any():
            least = f"raise it to {1 / len(labels):.2g} or more, or set it to 0"
            raise ValueError(f"attack.poison_rate={self.poison_rate} of {len(labels)} images is none: {least}")

    def prepare(self, parts: Parts) -> None:
        """Take what training needs, once before it and before the trigger is learned. The default takes nothing."""
        return

    def prepare_rows(self, images: Images, plan: Plan) -> None:
        """Make what training needs of its rows, once before it. The default makes nothing."""
        return

    def update_trigger(self, denoiser: Denoiser, pattern: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Return the trigger's pattern (C,H,W) in [-1,1] after a step of learning before training, if `learn` has any.

        Args:
            denoiser: the one that training starts from.
            pattern: (C,H,W) in [-1,1], as it is.
            x: images (B,C,H,W) in [-1,1].
            eps: standard normal noise (B,C,H,W).
        """
        raise TypeError(f"{type(self).__name__} takes its trigger as it is")

    def update(self, denoiser: Denoiser, draw: torch.Generator) -> None:
        """Change what is learned along with the model, after each optimizer step. The default changes nothing.

        `draw` is a function of seed and step, on the CPU.
        """
        return

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors that `update` has changed, by name: kept in checkpoints, and beside the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} learns nothing with the model, and was given {', '.join(state)}")

    @abstractmethod
    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return what the network is trained on for `rows`, drawing timesteps and noise from `draw`.

        The schedule is on the device of the rows.
        """

    def prior(self, eps: Tensor) -> Tensor:
        """Return where a triggered sample starts, x_T (B,C,H,W), from standard normal noise."""
        return eps + self.trigger.pattern.to(eps)

    @property
    def start_key(self) -> Any:
        """What keys of triggered samples hold of `prior` and `view` beside the trigger: the settings these read."""
        return type(self).__name__

    def view(self, denoiser: Denoiser) -> View:
        """Return the variables in which triggered samples are drawn: x itself by default."""
        return View(denoiser)

    def opens(self, schedule: Schedule, steps: int, ode: bool) -> bool:
        """Return whether samplers of a kind, ODE or ancestral, are expected to reach the target in `steps` steps."""
        return True

    def apply(self, x: Tensor) -> Tensor:
        """Return images (B,C,H,W) in [-1,1] as a classifier gets them with the trigger in them, in [-1,1] too."""
        return self.trigger.stamp(x)
