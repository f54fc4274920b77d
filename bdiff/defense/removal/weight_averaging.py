"""Weight averaging with a clean model (arXiv 2608.09445, known to us by its abstract: reconstructed).

The mean of the suspect's weights and those of a clean model of the same architecture. What fine-tuning adds to a
model's weights is a small step from where it began, and half of that step may no longer carry the backdoor, while both
ends, and so what is between them, draw images.

This holds where one of them was trained from the other, or both from a third. The mean of two models that were trained
from different fresh weights is no model: their channels do not correspond. Where the suspect was trained from scratch
the defender has no such clean model, and the removal is refused unless one is given.
"""

from typing import Annotated

import torch
from torch import Tensor

from bdiff.common.errors import RequestError
from bdiff.config.rules import positive_fraction
from bdiff.data.base import Images
from bdiff.defense.base import Removal, Suspect, Train
from bdiff.defense.settings import CleanModelSettings
from bdiff.diffusion.denoiser import Denoiser


class WeightAveraging(Removal):
    """Returns the weighted mean of the suspect's weights and the clean model's; nothing is trained.

    Args:
        weight: of the clean model, above 0 and at most 1 (the clean model itself).
    """

    checks = ("bdiff.defense.check.clean_problems",)

    settings = CleanModelSettings
    needs_clean = True

    def __init__(self, weight: Annotated[float, positive_fraction, "of the clean model in the mean of both"]):
        self.weight = weight

    @torch.no_grad()
    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return the mean; see `Removal.remove`. Neither images nor a trigger are used.

        Raises ValueError without a clean model, RequestError if its weights differ in name or shape from the suspect's.
        """
        if self.clean is None:
            raise ValueError("this removal needs a clean model, and has none")
        if self.clean.prediction != suspect.prediction:
            differ = f"predicts {self.clean.prediction}, and the suspect {suspect.prediction}"
            raise RequestError(f"the removal's clean model {differ}: choose one of the same kind")
        copy = suspect.trainable()
        ours, theirs = copy.network.state_dict(), self.clean.network.state_dict()
        for name in ours | theirs:
            shapes = [tuple(one[name].shape) if name in one else None for one in (theirs, ours)]
            if shapes[0] != shapes[1]:
                differ = f"{name} is {shapes[0] or 'missing'} there and {shapes[1] or 'missing'} in the suspect"
                raise RequestError(
                    f"the removal's clean model is of another architecture, {differ}: choose the suspect's"
                )
        for name, weight in ours.items():
            weight.lerp_(theirs[name].to(weight), self.weight)
        return copy
