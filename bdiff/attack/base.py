"""The interface of attacks: how training rows are poisoned, and where triggered samples start."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
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

    shown: Tensor  # (M,) int64, the image of each row
    poisoned: Tensor  # (M,) bool


def poison_plan(rows: int, rate: float, mode: str, seed: int) -> Plan:
    """Return the image of each training row, and which rows are poisoned.

    `replace` poisons a fraction `rate` of the rows (BadDiffusion's FIXED, M = rows); `append` adds that many poisoned
    copies (their FLEX, M = rows + round(rate * rows)). The choice of images is a function of `seed`.
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
    """What an attack may read before training, on the training device."""

    schedule: Schedule
    surrogate: nn.Module | None = None  # the attacker's classifier, images (B,C,H,W) in [-1,1] to logits


class Attack(ABC):
    """A backdoor attack on the training of a diffusion model.

    Args:
        trigger: what the attacker adds to a sample's starting noise.
        target: (C,H,W) in [-1,1], what triggered samples should show.
        poison_rate: fraction of the rows that are poisoned, in [0,1].
        poison_mode: "replace" or "append", see `poison_plan`.
    """

    #: checks of the settings of every attack; a subclass's own are added
    checks: ClassVar[tuple[str, ...]] = (
        "bdiff.attack.check.learn_problems",
        "bdiff.attack.check.amplify_problems",
    )
    #: part of the key; incremented when the same settings would train another model
    version: ClassVar[int] = 1
    #: the groups of the request that the trained weights depend on, besides the attack's own settings
    reads: tuple[str, ...] = ("trigger", "target")
    #: whether the trigger can be added to a sample's starting noise; otherwise it is for images that are denoised
    starts_samples: ClassVar[bool] = True
    #: whether `prior` adds the trigger's pattern to the noise and does nothing else, as detections invert it
    adds_pattern: ClassVar[bool] = True
    #: whether training reads a classifier, which `prepare` then receives
    needs_surrogate: bool = False
    #: the settings that a trigger learned before training depends on
    learn_reads: ClassVar[tuple[str, ...]] = ()
    #: part of its key; incremented, as `version` is, when the same settings would learn another
    learn_version: ClassVar[int] = 1
    #: settings that are newer than the attack: keys leave them out at their constructor's default
    later: ClassVar[tuple[str, ...]] = ()
    #: whether learning it needs a denoiser that has been trained
    learns_on_model: ClassVar[bool] = True
    #: number of `update_trigger` steps before training
    learn: int = 0
    #: whether `update` changes the trigger's pattern, which the run then takes over from the trained model
    learns_with_model: bool = False
    #: for plans, the images that `update` shows the network, all at once and with gradients to them
    update_images: int = 0
    #: images of other data that training shows too: their rows follow those of the run's own, as their classes do
    others: Images | None = None
    #: the class that triggered samples should be of, among those of the run's data and of `others`; None: the target
    label: int | None = None

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
        """Move trigger and target to the device of training and sampling, once instead of in every step."""
        self.trigger, self.target = self.trigger.to(device), self.target.to(device)

    def read_data(self, images: Images, foreign: Images | None) -> None:
        """Set `others` and `label` if the attack has them. The default does nothing.

        Args:
            images: the run's.
            foreign: those that the attack's setting `foreign` names, of the same shape; None without.

        Raises ValueError if what the attack needs is not among them.
        """
        return

    def rows(self, labels: Tensor, seed: int) -> Plan:
        """Return the rows of a training set over images with `labels` (N,) int64, and behind them those of `others`.

        The default is `poison_plan`.
        """
        return poison_plan(len(labels), self.poison_rate, self.poison_mode, seed)

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if the attack does not work with this schedule."""
        return

    def prediction_problem(self, schedule: Schedule, prediction: str) -> str | None:
        """Return what stands in the way of training a network of this prediction, see `Denoiser`; None by default."""
        return None

    def check_rows(self, labels: Tensor) -> None:
        """Raise ValueError if a poison rate above 0 poisons none of the rows of images with `labels` (N,)."""
        if self.poison_rate > 0 and not self.rows(labels, 0).poisoned.any():
            least = f"raise it to {1 / len(labels):.2g} or more, or set it to 0"
            raise ValueError(f"attack.poison_rate={self.poison_rate} of {len(labels)} images is none: {least}")

    def prepare(self, parts: Parts) -> None:
        """Prepare for training, once, before the trigger is learned. The default does nothing."""
        return

    def prepare_rows(self, images: Images, plan: Plan) -> None:
        """Precompute what training needs per row, once. The default does nothing."""
        return

    def update_trigger(self, denoiser: Denoiser, pattern: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Return the trigger's pattern (C,H,W) in [-1,1] after one learning step before training; see `learn`.

        Args:
            denoiser: the model that training starts from.
            pattern: (C,H,W) in [-1,1], the current one.
            x: images (B,C,H,W) in [-1,1].
            eps: standard normal noise (B,C,H,W).
        """
        raise TypeError(f"{type(self).__name__} does not learn its trigger")

    def update(self, denoiser: Denoiser, draw: torch.Generator) -> None:
        """Update what is learned along with the model, after each optimizer step. The default does nothing.

        `draw` is a function of seed and step, on the CPU. A pattern is put in place by `replace_pattern`.
        """
        return

    def replace_pattern(self, pattern: Tensor) -> None:
        """Give the trigger another pattern (C,H,W); the old one, which others may hold, stays as it is."""
        assert pattern.shape == self.trigger.pattern.shape, (pattern.shape, self.trigger.pattern.shape)
        self.trigger = replace(self.trigger, pattern=pattern.detach())

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors that `update` changes, by name: saved in checkpoints, and with the weights."""
        return {"pattern": self.trigger.pattern} if self.learns_with_model else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        if self.learns_with_model:
            self.replace_pattern(state["pattern"])
        elif state:
            raise ValueError(f"{type(self).__name__} learns nothing with the model, but was given {', '.join(state)}")

    @abstractmethod
    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return the network's input and target for `rows`, drawing timesteps and noise from `draw`.

        The schedule is on the device of the rows.
        """

    def prior(self, eps: Tensor) -> Tensor:
        """Return the x_T (B,C,H,W) that triggered samples start from, given standard normal noise."""
        return eps + self.trigger.pattern.to(eps)

    @property
    def start_key(self) -> Any:
        """The settings that `prior` and `view` read besides the trigger, for the keys of triggered samples."""
        return type(self).__name__

    def view(self, denoiser: Denoiser) -> View:
        """Return the variables in which triggered samples are drawn: x itself by default."""
        return View(denoiser)

    def opens(self, schedule: Schedule, steps: int, eta: float) -> bool:
        """Return whether samplers are expected to reach the target in `steps` steps: of ODEs (`eta` 0), ancestral (1).

        Between the two is DDIM with such an eta.
        """
        return True

    def apply(self, x: Tensor) -> Tensor:
        """Return images (B,C,H,W) in [-1,1] with the trigger, as given to a classifier, also in [-1,1]."""
        return self.trigger.stamp(x)
