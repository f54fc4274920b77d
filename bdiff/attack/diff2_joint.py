"""DIFF2 with a trigger that is optimized in turn with the denoiser (after Li et al. 2024, arXiv 2406.09669).

Theirs is that both are optimized, as later texts on the paper describe it. The trigger's loss and its steps are ours.
"""

from typing import Annotated, Any

import torch

from bdiff.attack.base import Plan
from bdiff.attack.diff2 import DIFF2
from bdiff.common.device import to_device
from bdiff.config.rules import above, at_least
from bdiff.data.base import Images, to_float
from bdiff.diffusion.denoiser import Denoiser


class DIFF2Joint(DIFF2):
    """After each step of the denoiser on `DIFF2`'s loss, the trigger takes one of `DIFF2.update_trigger` behind it.

    So the trigger climbs the surrogate's loss on what the denoiser, as it is by then, makes of noised triggered images.
    It starts as conf/trigger has it, or learned on the initial model with `learn`, and needs to cover the image.

    Args:
        images: of a step of the trigger.
        length: of a step in each pixel, of a pattern in [-1,1].
        given, options: see `DIFF2`.

    Raises ValueError for a patch.
    """

    learns_with_model = True
    learn_reads = (*DIFF2.learn_reads, "length")

    def __init__(
        self,
        *given: Any,
        images: Annotated[int, at_least(1), "images of a step of the trigger"],
        length: Annotated[float, above(0), "of a step of the trigger in each pixel, which is in [-1,1]"],
        **options: Any,
    ):
        super().__init__(*given, **options)
        if self.patch:
            raise ValueError("attack=diff2_joint needs a trigger that covers the image, such as trigger=universal")
        self.batch, self.length, self.update_images = images, length, images

    def prepare_rows(self, images: Images, plan: Plan) -> None:
        """Keep the images for the steps of the trigger too; see `Attack.prepare_rows`."""
        super().prepare_rows(images, plan)
        self.images = images

    def update(self, denoiser: Denoiser, draw: torch.Generator) -> None:
        """Take a step of the trigger, on images and noise drawn anew; see `Attack.update`."""
        chosen = to_device(torch.randint(len(self.images), (self.batch,), generator=draw), self.images.device)
        x = to_float(to_device(self.images.take(chosen), denoiser.device))
        self.replace_pattern(self.update_trigger(denoiser, self.trigger.pattern, x, denoiser.noise(len(x), draw)))
