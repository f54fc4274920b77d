"""Elijah's removal of a backdoor, given its inverted trigger (An et al. 2024, arXiv 2312.00050; authors' code)."""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bdiff.config.rules import at_least
from bdiff.data.base import Images
from bdiff.defense.base import Removal, Suspect, Train
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.denoiser import EPSILON, Denoiser, eps_of, target_of
from bdiff.diffusion.objective import Draw, clean, shown


class ElijahRemoval(Removal):
    """Fine-tunes a copy of the suspect on clean images, so that noise with the inverted trigger acts like clean noise.

    Args:
        shift_weight: weight, at least 0, of the loss that removes the trigger's effect (authors: 1).
        clean_weight: weight, at least 0, of the loss that ties the copy to the suspect on clean noise (authors: 1).
    """

    checks = ("bdiff.defense.check.trigger_problems",)

    row_images = (3, 1)

    def __init__(
        self,
        shift_weight: Annotated[float, at_least(0), "weight of the loss that removes the trigger's effect"],
        clean_weight: Annotated[float, at_least(0), "weight of the loss that preserves predictions on clean noise"],
    ):
        self.shift_weight, self.clean_weight = shift_weight, clean_weight

    def version(self, prediction: str) -> int:
        """See `Removal.version`: until 0.2.0 every loss was in terms of noise."""
        return 1 if prediction == EPSILON else 2

    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return the fine-tuned copy; see `Removal.remove`. Raises ValueError without a trigger."""
        if trigger is None:
            raise ValueError("this removal needs an inverted trigger: run a detection first")
        copy = suspect.trainable()
        train(copy, removal_loss(suspect, trigger, images.flip, self.shift_weight, self.clean_weight))
        return copy


def removal_loss(suspect: Suspect, trigger: Tensor, flip: bool, shift_weight: float, clean_weight: float) -> Loss:
    """Return clean DDPM loss + shift_weight MSE[eps_th(eps + tau, T-1), eps_0(eps, T-1)] + clean_weight MSE[no tau].

    eps_0 is the suspect, tau its trigger (C,H,W). As in the authors' code, eps is the noise of the DDPM loss. The clean
    loss is in the network's own terms, as in training; the others are in terms of noise, whatever the network predicts.
    """
    trigger, schedule = trigger.to(suspect.device), suspect.schedule

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x_t, t, eps = clean(schedule, shown(batch, None, flip), Draw(batch, len(schedule)))
        last = torch.full_like(t, len(schedule) - 1)
        with torch.no_grad():
            reference = suspect.eps(eps, last)
        # One pass for all three, as distributed training does not support several forward passes per backward.
        x, times = torch.cat([x_t, eps + trigger, eps]), torch.cat([t, last, last])
        raw = net(x, times)
        _, triggered, plain = eps_of(suspect.prediction, schedule, x, raw, times).chunk(3)
        return (
            mse_loss(raw.chunk(3)[0], target_of(suspect.prediction, schedule, x_t, eps, t))
            + shift_weight * mse_loss(triggered, reference)
            + clean_weight * mse_loss(plain, reference)
        )

    return loss
