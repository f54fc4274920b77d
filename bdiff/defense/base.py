"""The roles of defenses: the inputs, the results and the common settings of each.

The pipeline evaluates all defenses of a role in the same way. No defense knows the attack: its assumptions (clean
images, a schedule, a correction coefficient) are arguments.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from bdiff.common.peers import ALONE, Peers
from bdiff.data.base import Images
from bdiff.defense.settings import DetectionSettings, InputCheckSettings, LabelSettings, RemovalSettings, ShieldSettings
from bdiff.defense.shields import cohen
from bdiff.diffusion.batch import Loss
from bdiff.diffusion.denoiser import Denoiser, Suspect
from bdiff.diffusion.mode import Work
from bdiff.diffusion.noise import Noise
from bdiff.diffusion.schedule import Schedule

Eps = Callable[[Tensor, int], Tensor]  # x_t (B,C,H,W) and t -> predicted noise (B,C,H,W); `Suspect.eps` is one
Facts = dict[str, Tensor]  # what an input check prepares for a model, by name
Logits = Callable[[Tensor], Tensor]  # images (B,C,H,W) in [-1,1] -> (B, classes); may be random in each call


@dataclass(frozen=True)
class Inversion:
    """The trigger that a detection inverted, and the curve of its loss."""

    trigger: Tensor  # (C,H,W) on the CPU: what is added to a sample's starting noise
    curve: list[float]  # the loss at every step (of the chosen restart)
    evidence: dict[str, float] = field(default_factory=dict)
    gamma: Tensor | None = None  # (C,H,W), scale of the noise beside it in a `ShiftedNoise`; None: 1, sampled in x
    family: str | None = None  # ancestral or ode: the samplers that should open it; None: any, as far as is known


@dataclass(frozen=True)
class Verdict:
    """A detection's result: the higher the score, the likelier a backdoor; flagged if it reaches the threshold."""

    score: float
    flagged: bool
    trigger: Tensor  # (C,H,W)
    evidence: dict[str, float]
    #: of the threshold, at most, on models like the clean ones of its calibration; None: not known, or no threshold
    false_positive_rate: float | None = None


class Defense(ABC):  # noqa: B024 (what is abstract is each role's)
    """A defense of any role."""

    #: a dataclass: the keys of its node of conf/defense that the pipeline reads, not the constructor
    settings: ClassVar[type | None] = None


class Detection(Defense):
    """Decides whether a model has a backdoor: inverts a trigger from the model, then scores it and its samples."""

    settings = DetectionSettings
    #: a model is flagged if its score reaches this, None for never; calibrate it on clean models only
    threshold: float | None
    #: the processes that share the starts, if there are several: all of them call `invert`, and get the same
    peers: Peers = ALONE
    #: where a detection that can go on after a kill keeps the state of `invert`
    state: Path | None = None
    #: settings that are numbers of steps, the first of them `steps`: a shorter audit has fewer of each
    shortened: ClassVar[tuple[str, ...]] = ("steps",)
    #: whether `compare` scores the samples relative to clean ones of the same model
    compares: ClassVar[bool] = False

    @property
    @abstractmethod
    def total(self) -> int:
        """The number of steps of `invert` in one process, each of which it reports to `watch`."""

    @property
    def version(self) -> int:
        """Of what `invert` does with the same settings; part of keys from 2 on."""
        return 1

    @property
    def starts(self) -> int:
        """The number of searches of `invert`, independent of each other; several are shared by `peers`."""
        return 1

    @property
    def work(self) -> Work:
        """What `invert` asks of the network with gradients, as far as that is known beforehand."""
        return Work(0, 1, gradients=True)

    @property
    def forward_images(self) -> int:
        """The number of images that `invert` shows the network without gradients, beside `work`, as far as known."""
        return 0

    @property
    def alive(self) -> int:
        """The number of calls of the network whose activations are kept at a time, for gradients through all."""
        return 1

    @property
    def reads(self) -> int:
        """The number of samples from the inverted trigger that `look` reads: the setting `samples`, if it has one."""
        return int(vars(self).get("samples", 0))

    @abstractmethod
    def invert(self, suspect: Suspect, seed: int, watch: Callable[[str], None] = lambda line: None) -> Inversion:
        """Return the inverted trigger; the same for the same seed. `watch` is called at every step with a status."""

    @abstractmethod
    def look(self, inversion: Inversion, samples: Tensor) -> dict[str, float]:
        """Return the evidence, including `score`, from the trigger and samples (B,C,H,W) in [-1,1] drawn from it."""

    def compare(self, inversion: Inversion, samples: Tensor, clean: Tensor) -> dict[str, float]:
        """Return further scores, including `relative_score`, from samples beside clean ones from the same noise.

        Both are (B,C,H,W) in [-1,1] and of the same model, so that these scores mean the same on every data set.
        """
        return {}

    def verdict(
        self, inversion: Inversion, samples: Tensor, clean: Tensor | None = None, flag_by: str = "score"
    ) -> Verdict:
        """Return the verdict: flagged if the score named by `flag_by` reaches the threshold.

        `clean` are the model's own samples from the noise of `samples` without the trigger, for `compare`.
        """
        evidence = inversion.evidence | self.look(inversion, samples)
        if clean is not None:
            evidence |= self.compare(inversion, samples, clean)
        flagged = self.threshold is not None and evidence[flag_by] >= self.threshold
        return Verdict(evidence.pop("score"), flagged, inversion.trigger, evidence)


class Train(Protocol):
    """The training loop, with the removal's train config."""

    def __call__(self, net: Any, loss: Loss, images: Images | None = None, /) -> nn.Module:
        """Train a denoiser with a loss, on the defender's images or on others, and return it."""


class Removal(Defense):
    """Removes a backdoor from a model."""

    settings: ClassVar[type | None] = RemovalSettings
    #: whether it needs a clean model of the suspect's architecture, by the pipeline's setting `clean`
    needs_clean: ClassVar[bool] = False
    #: the clean model, for removals that need one
    clean: Denoiser | None = None
    #: for plans, the images that a row of its training shows the network, and the suspect without gradients
    row_images: tuple[int, int] = (1, 0)

    def version(self, prediction: str) -> int:
        """Return that of what `remove` does to a network of this prediction; part of keys from 2 on."""
        return 1

    @abstractmethod
    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return a denoiser of the suspect's architecture without the backdoor.

        Args:
            suspect: not modified.
            images: the clean images that the defender has; `train` takes its batches from them.
            trigger: (C,H,W), inverted by a detection, for removals that need one.
            train: the training loop, `train(module, loss)`; at most one call, which is resumed if it is killed.
        """


class InputCheck(Defense):
    """Detects a trigger in a sample's starting noise, before or while it is denoised."""

    checks: ClassVar[tuple[str, ...]] = ("bdiff.defense.check.rate_problems",)

    settings: ClassVar[type] = InputCheckSettings
    #: whether it needs the trigger that the detection of its setting `inversion` inverts, see `TriggerCheckSettings`
    needs_trigger: ClassVar[bool] = False

    @property
    def evaluations(self) -> int:
        """The number of images that the network evaluates for one score, as far as that is known beforehand."""
        return 0

    @property
    def preparation(self) -> int:
        """The number of those that it evaluates in `prepare`."""
        return 0

    def prepare(self, suspect: Suspect, inversion: Inversion | None, seed: int, batch_size: int) -> Facts:
        """Return, on the suspect's device, what all scores of a model need; made once. By default nothing.

        Args:
            suspect: the model.
            inversion: of a detection, for checks that need a trigger.
            seed: of what it draws.
            batch_size: images for the network at a time.
        """
        return {}

    @abstractmethod
    def score(self, x: Tensor, suspect: Suspect, noise: Noise, facts: Facts) -> Tensor:
        """Return a score (B,) for each starting noise x (B,C,H,W): the higher, the likelier it contains a trigger.

        Args:
            x: starting noises as they come, with the trigger or without.
            suspect: the model.
            noise: what the check draws, per input, so that no score depends on the rest of the batch.
            facts: what `prepare` returned for this model.
        """


class SamplingDefense(Defense):
    """Leaves the model unchanged and changes the sampler."""

    @abstractmethod
    def scheduler(self, scheduler: Any) -> Any:
        """Return a changed copy of the sampler, a diffusers scheduler. ValueError if it does not support the change."""


class Shield(Defense):
    """Protects a classifier: a diffusion model denoises the classifier's inputs."""

    @abstractmethod
    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if the denoiser's schedule does not reach the noise that the shield adds."""


class LabelShield(Shield):
    """Labels each image by the classifier's logits on its purified copies, of which there are `copies`."""

    checks = ("bdiff.defense.check.adversary_problems",)

    settings = LabelSettings
    copies: int

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """The number of images that the network evaluates for one label."""

    @property
    def key(self) -> dict[str, Any]:
        """The shield's own settings, for keys."""
        return dict(vars(self))

    def noise_problem(self, schedule: Schedule, eps: float) -> str | None:
        """Return the problem that the noise is too weak to cover an L-inf perturbation of eps, for images in [0,1]."""
        return None

    @abstractmethod
    def purify(self, x: Tensor, eps: Eps, schedule: Schedule, noise: Noise) -> Tensor:
        """Return one purified copy (B,C,H,W) of each image x (B,C,H,W) in [-1,1], not clamped.

        Differentiable in x. `eps` is the denoiser, `noise` is of as many images.
        """


class RadiusShield(Shield):
    """Labels each image with an L2 radius, for images in [0,1], within which the label is certified not to change."""

    settings = ShieldSettings
    sigma: float  # standard deviation of the noise added to the classifier's images, in [0,1]
    batch_size: int  # draws per batch
    draws: int  # maximum per image
    radii: list[float]  # at which certified accuracy is reported
    stop: str  # never, or radii: certified radii are then lower bounds

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
        """Write the table of certificates of images (K,C,H,W) to `path`, resuming an unfinished one, and return it."""
