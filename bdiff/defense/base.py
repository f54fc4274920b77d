"""The roles of defenses: what each is asked, what it answers, and the settings that all of a role have.

The pipeline evaluates every defense of a role in one way. No defense knows the attack: what one assumes (clean images,
a schedule, a correction coefficient) is an argument.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from bdiff.data.base import Images
from bdiff.defense.settings import DetectionSettings, InputCheckSettings, LabelSettings, RemovalSettings, ShieldSettings
from bdiff.defense.shields import cohen
from bdiff.diffusion.batch import Loss
from bdiff.diffusion.denoiser import Denoiser, Suspect
from bdiff.diffusion.mode import Work
from bdiff.diffusion.noise import Noise
from bdiff.diffusion.schedule import Schedule

Eps = Callable[[Tensor, int], Tensor]  # x_t (B,C,H,W) and t -> predicted noise (B,C,H,W); `Suspect.eps` is one
Logits = Callable[[Tensor], Tensor]  # images (B,C,H,W) in [-1,1] -> (B, classes); may be random, anew in each call


@dataclass(frozen=True)
class Inversion:
    """The trigger that a detection takes the suspect to have, and how it came to it."""

    trigger: Tensor  # (C,H,W) on the CPU: what is added to a sample's starting noise
    curve: list[float]  # the loss at every step (of the restart that was chosen)
    evidence: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A detection's answer: the higher the score, the likelier a backdoor; flagged from the threshold on."""

    score: float
    flagged: bool
    trigger: Tensor  # (C,H,W)
    evidence: dict[str, float]


class Defense(ABC):  # noqa: B024 (what is abstract is each role's)
    """A defense of any role."""

    #: a dataclass: the keys of its node of conf/defense that the pipeline reads, and the constructor does not
    settings: ClassVar[type | None] = None


class Detection(Defense):
    """Asks whether a model has a backdoor: inverts a trigger from the model alone, then looks at it and its samples."""

    settings = DetectionSettings
    #: the score from which on a model is flagged, None for never; calibrate it on clean models only
    threshold: float | None
    #: what scores there can be, above the first and up to the second
    scores: ClassVar[tuple[float, float]] = (-inf, inf)

    @property
    @abstractmethod
    def total(self) -> int:
        """How many steps `invert` takes, of each of which it tells."""

    @property
    def work(self) -> Work:
        """What `invert` asks of the network with gradients, as far as that is known beforehand."""
        return Work(0, 1, gradients=True)

    @property
    def reads(self) -> int:
        """How many samples drawn from the inverted trigger `look` reads: the setting `samples`, where there is one."""
        return int(vars(self).get("samples", 0))

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


#: trains a denoiser by a loss, as the removal's config says, and returns it
Train = Callable[[Any, Loss], nn.Module]


class Removal(Defense):
    """Takes a backdoor out of a model."""

    settings = RemovalSettings
    #: whether it works from the trigger that a detection inverted
    needs_trigger: ClassVar[bool] = False

    @abstractmethod
    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return a denoiser of the suspect's architecture without the backdoor.

        Args:
            suspect: left as it is.
            images: the clean images that the defender has; `train` takes its batches from them.
            trigger: (C,H,W) as a detection inverted it, for removals that need one.
            train: the training loop, `train(module, loss)`.
        """


class InputCheck(Defense):
    """Looks at the noise that a sample is to start from, before or while it is denoised: is there a trigger in it?"""

    settings = InputCheckSettings

    @abstractmethod
    def score(self, x: Tensor, suspect: Suspect, seed: int) -> Tensor:
        """Return a score (B,) for each starting noise x (B,C,H,W): the higher, the likelier it has a trigger."""


class SamplingDefense(Defense):
    """Stands between a model, as it is, and those who draw from it: changes the sampler."""

    @abstractmethod
    def scheduler(self, scheduler: Any) -> Any:
        """Return a changed copy of the sampler, a diffusers scheduler. ValueError if this one cannot be changed so."""


class Shield(Defense):
    """Stands between a classifier and those who ask it: a model denoises what the classifier is shown."""

    @abstractmethod
    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if the schedule of the denoiser does not have the noise that the shield adds."""


class LabelShield(Shield):
    """Gives each image a label: the classifier's of its purified copies, of which there are `copies`."""

    checks = ("bdiff.defense.check.adversary_problems",)

    settings = LabelSettings
    copies: int

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """How many images the network is shown for one label."""

    @property
    def key(self) -> dict[str, Any]:
        """The shield's own settings, for keys."""
        return dict(vars(self))

    def noise_problem(self, schedule: Schedule, eps: float) -> str | None:
        """Return in words that the noise it adds drowns no L-inf perturbation of eps, for images in [0,1]."""
        return None

    @abstractmethod
    def purify(self, x: Tensor, eps: Eps, schedule: Schedule, noise: Noise) -> Tensor:
        """Return one purified copy (B,C,H,W) of each image x (B,C,H,W) in [-1,1], not clamped.

        Differentiable in x. `eps` is the denoiser, `noise` is of as many images.
        """


class RadiusShield(Shield):
    """Gives each image a label with an L2 radius, for images in [0,1], within which it is certified to stay."""

    settings = ShieldSettings
    sigma: float  # standard deviation of the noise of the images that the classifier is asked of, in [0,1]
    batch_size: int  # draws per batch
    draws: int  # of an image, at most
    radii: list[float]  # at which certified accuracy is wanted
    stop: str  # never, or radii: radii are then lower bounds

    @property
    @abstractmethod
    def key(self) -> dict[str, Any]:
        """The settings that rows of the table depend on, for keys."""

    @abstractmethod
    def behind(self, eps: Eps, schedule: Schedule, classifier: Logits) -> Logits:
        """Return the classifier of noisy images (B,C,H,W) behind the denoiser `eps`."""

    @abstractmethod
    def run(
        self,
        logits: Logits,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        path: Path,
        *,
        seed: int,
        name: str = "certify",
        every: float = 10.0,
    ) -> list[cohen.Row]:
        """Write the table of certificates of images (K,C,H,W), which goes on where it ends, to `path` and return it."""
