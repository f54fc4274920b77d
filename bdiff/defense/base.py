"""What defenses may see of a model, and the answers of those that look for a backdoor (audits) or remove one (repairs).

No defense knows the attack: what one assumes (clean images, a schedule, a noise-shift law) is an argument.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bdiff.common.device import autocast, to_device
from bdiff.data.base import Images
from bdiff.defense.settings import DetectionSettings, RemovalSettings, ShieldSettings
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import Loss

Eps = Callable[[Tensor, int], Tensor]  # x_t (B,C,H,W) and t -> predicted noise (B,C,H,W); `Suspect.eps` is one
Logits = Callable[[Tensor], Tensor]  # images (B,C,H,W) in [-1,1] -> (B, classes); may be random, anew in each call


@dataclass
class Suspect:
    """All that a defense may see of a model: its weights, its noise schedule and the shape of its images.

    The weights are frozen: gradients go through them to the inputs, and none is kept for them.
    """

    unet: nn.Module
    schedule: Schedule  # on the device
    shape: tuple[int, int, int]  # (C, H, W)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    checkpoint: bool = False  # keep no activations for the backward pass, and compute them a second time
    evaluations: int = 0  # images that the network has been shown so far

    def __post_init__(self) -> None:
        self.unet.to(self.device).eval().requires_grad_(False)
        self.steps = torch.arange(len(self.schedule), device=self.device)  # of which a timestep is a view, no copy

    def eps(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Return the predicted noise (B,C,H,W) of x (B,C,H,W) at timesteps t, one for all or (B,)."""
        assert x.shape[1:] == self.shape, (x.shape, self.shape)
        self.evaluations += len(x)
        t = t if isinstance(t, Tensor) else self.steps[t].expand(len(x))

        def evaluate(x: Tensor) -> Tensor:
            with autocast(self.precision, self.device):
                return self.unet(x, t, return_dict=False)[0].float()

        if self.checkpoint and x.requires_grad:
            return checkpoint(evaluate, x, use_reentrant=False)
        return evaluate(x)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return standard normal noise (count,C,H,W) on the device, drawn on the CPU so that devices agree."""
        return to_device(torch.randn((count, *self.shape), generator=generator), self.device)


@dataclass(frozen=True)
class Inversion:
    """The trigger that an audit takes the suspect to have, and how it came to it."""

    trigger: Tensor  # (C,H,W) on the CPU: what is added to a sample's starting noise
    curve: list[float]  # the loss at every step (of the restart that was chosen)
    evidence: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """An audit's answer: the higher the score, the likelier a backdoor; flagged from the threshold on."""

    score: float
    flagged: bool
    trigger: Tensor  # (C,H,W)
    evidence: dict[str, float]


class Audit(ABC):
    """Asks whether a model has a backdoor: inverts a trigger from the model alone, then looks at it and its samples.

    `threshold` is the score from which on a model is flagged, None for never; calibrate it on clean models only.
    """

    settings = DetectionSettings

    threshold: float | None

    @property
    @abstractmethod
    def total(self) -> int:
        """How many steps `invert` takes, of each of which it tells."""

    @abstractmethod
    def invert(self, suspect: Suspect, seed: int, watch: Callable[[str], None] = lambda line: None) -> Inversion:
        """Return the inverted trigger; the same for the same seed. `watch` is told of every step, in a few words."""

    @abstractmethod
    def look(self, inversion: Inversion, samples: Tensor) -> dict[str, float]:
        """Return the evidence, `score` among it, from the trigger and samples (B,C,H,W) in [-1,1] drawn from it."""

    def verdict(self, inversion: Inversion, samples: Tensor) -> Verdict:
        """Return the answer."""
        evidence = inversion.evidence | self.look(inversion, samples)
        score = evidence.pop("score")
        flagged = self.threshold is not None and score >= self.threshold
        return Verdict(score, flagged, inversion.trigger, evidence)


#: trains a network by a loss, as the repair's recipe says, and returns it
Train = Callable[[nn.Module, Loss], nn.Module]


class Repair(ABC):
    """Takes a backdoor out of a model."""

    settings = RemovalSettings

    @abstractmethod
    def repair(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> nn.Module:
        """Return a mended UNet with the suspect's architecture.

        Args:
            suspect: left as it is.
            images: the clean images that the defender has; `train` takes its batches from them.
            trigger: (C,H,W) as an audit inverted it, for repairs that need one.
            train: the training loop, `train(network, loss)`.
        """


class Shield(ABC):
    """Stands between a classifier and those who ask it: a model denoises what the classifier is shown."""

    settings: type[ShieldSettings] = ShieldSettings

    @abstractmethod
    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if the schedule of the denoiser does not have the noise that the shield adds."""


class Guard(ABC):
    """Stands between a model, as it is, and those who draw from it."""

    @abstractmethod
    def guard(self, scheduler: Any) -> Any:
        """Return a changed copy of the sampler, a diffusers scheduler. ValueError if this one cannot be guarded."""
