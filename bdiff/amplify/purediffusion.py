"""PureDiffusion as an attack (Truong & Le 2025, arXiv 2502.19047): a trigger reinforced by inversion from the true one.

Reconstructed, like the detection. A briefly trained model already reacts to its trigger; starting there, the losses of
the detection lead to a picture that it reacts to fully.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar

from torch import Tensor

from bdiff.defense.base import Inversion, Suspect
from bdiff.defense.detection.chain import descend
from bdiff.defense.detection.purediffusion import PureDiffusion


class Amplifier:
    """Reinforces a trigger by the objective of `inversion`, with its steps, learning rate and bound.

    `scale` defines the null baseline: the true trigger times this factor.
    """

    #: settings, of its own and of `inversion`, that the reinforced trigger does not depend on
    unread: ClassVar[tuple[str, ...]] = (
        *("scale", "restarts", "probes", "probe_draws", "probe_rounds"),
        *("samples", "trim", "threshold"),
    )

    def __init__(
        self, inversion: PureDiffusion, scale: Annotated[float, "factor of the null baseline, the scaled true trigger"]
    ):
        self.inversion, self.scale = replace(inversion, restarts=1, probes=0), scale  # one descent is made

    def reinforce(
        self, suspect: Suspect, trigger: Tensor, seed: int, watch: Callable[[str], None] = lambda line: None
    ) -> Inversion:
        """Return the reinforced trigger (C,H,W) from the true one; the same for the same seed."""
        losses, settings = self.inversion.losses(suspect, seed), self.inversion
        start = trigger.to(suspect.device)[None]
        taus, curves = descend(losses, start, settings.steps, settings.lr, settings.bound, watch)
        return Inversion(taus[0].cpu(), curves[0])
