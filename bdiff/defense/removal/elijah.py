"""Elijah's removal of a backdoor by its inverted trigger (An et al. 2024, arXiv 2312.00050; authors' code)."""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bdiff.config.rules import at_least
from bdiff.data.base import Images
from bdiff.defense.base import Removal, Suspect, Train
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.denoiser import Denoiser, eps_of
from bdiff.diffusion.objective import Draw, clean, shown


class ElijahRemoval(Removal):
    """Fine-tunes a copy of the suspect, on clean images, to take noise with the inverted trigger for noise without it.

    Args:
        shift_weight: weight, at least 0, of what takes the trigger's effect away (authors: 1).
        clean_weight: weight, at least 0, of what ties the copy to the suspect on clean noise (authors: 1).

    Raises ValueError for a negative weight.
    """

    checks = ("bdiff.defense.check.trigger_problems",)

    needs_trigger = True

    def __init__(
        self,
        shift_weight: Annotated[float, at_least(0), "weight of what makes triggered noise look like clean noise"],
        clean_weight: Annotated[float, at_least(0), "weight of what holds the prediction from clean noise"],
    ):
        for name, weight in (("shift_weight", shift_weight), ("clean_weight", clean_weight)):
            if weight < 0:
                raise ValueError(f"{name}={weight} is the weight of a loss: choose a value of at least 0")
        self.shift_weight, self.clean_weight = shift_weight, clean_weight

    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return the fine-tuned copy; see `Removal.remove`. Raises ValueError without a trigger."""
        if trigger is None:
            raise ValueError("this removal works from an inverted trigger: let a detection invert one first")
        copy = suspect.trainable()
        train(copy, removal_loss(suspect, trigger, images.flip, self.shift_weight, self.clean_weight))
        return copy


def removal_loss(suspect: Suspect, trigger: Tensor, flip: bool, shift_weight: float, clean_weight: float) -> Loss:
    """Return clean DDPM loss + shift_weight MSE[eps_th(eps + tau, T-1), eps_0(eps, T-1)] + clean_weight MSE[no tau].

    eps_0 is the suspect, tau its trigger (C,H,W). As in the authors' code, eps is the noise of the DDPM loss. All
    three are of noise, whatever the network predicts.
    """
    trigger, schedule = trigger.to(suspect.device), suspect.schedule

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x_t, t, eps, _ = clean(schedule, shown(batch, None, flip), Draw(batch, len(schedule)))
        last = torch.full_like(t, len(schedule) - 1)
        with torch.no_grad():
            wanted = suspect.eps(eps, last)
        # One pass for all three: several before one backward is what distributed training does not like.
        x, times = torch.cat([x_t, eps + trigger, eps]), torch.cat([t, last, last])
        denoised, triggered, plain = eps_of(suspect.prediction, schedule, x, net(x, times), times).chunk(3)
        return (
            mse_loss(denoised, eps)
            + shift_weight * mse_loss(triggered, wanted)
            + clean_weight * mse_loss(plain, wanted)
        )

    return loss
