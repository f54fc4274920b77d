"""Elijah's removal of a backdoor whose trigger an audit inverted (An et al. 2024, arXiv 2312.00050; authors' code)."""

from copy import deepcopy
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bdiff.config.rules import at_least
from bdiff.data.base import Images, to_float
from bdiff.defense.base import Repair, Suspect, Train
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import Batch, Loss, flipped


def noised(schedule: Schedule, batch: Batch, flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return x_t (b,C,H,W), t (b,) uniform and the noise in it, of which the clean DDPM loss is the squared error."""
    x = flipped(to_float(batch.pixels), batch) if flip else to_float(batch.pixels)
    t = batch.draw(lambda shape, device: torch.randint(len(schedule), shape, device=device))
    eps = batch.draw(torch.randn, *x.shape[1:])
    return schedule.add_noise(x, eps, t), t, eps


def removal_loss(suspect: Suspect, trigger: Tensor, flip: bool, unshift: float, keep: float) -> Loss:
    """Return clean DDPM loss + unshift * MSE[eps_th(eps + tau, T-1), eps_0(eps, T-1)] + keep * the same without tau.

    eps_0 is the suspect, tau its trigger (C,H,W). As in the authors' code, eps is the noise of the DDPM loss.
    """
    trigger = trigger.to(suspect.device)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x_t, t, eps = noised(suspect.schedule, batch, flip)
        last = torch.full_like(t, len(suspect.schedule) - 1)
        with torch.no_grad():
            wanted = suspect.eps(eps, last)
        # One pass for all three: several before one backward is what distributed training does not like.
        seen = net(torch.cat([x_t, eps + trigger, eps]), torch.cat([t, last, last]), return_dict=False)[0]
        denoised, triggered, clean = seen.float().chunk(3)
        return mse_loss(denoised, eps) + unshift * mse_loss(triggered, wanted) + keep * mse_loss(clean, wanted)

    return loss


class Removal(Repair):
    """Fine-tunes a copy of the suspect, on clean images, to take noise with the inverted trigger for noise without it.

    Args:
        unshift: weight, at least 0, of what takes the trigger's effect away (authors: 1).
        keep: weight, at least 0, of what ties the copy to the suspect on clean noise (authors: 1).

    Raises ValueError for a negative weight.
    """

    def __init__(
        self,
        unshift: Annotated[float, at_least(0), "weight of the loss that makes triggered noise look like clean noise"],
        keep: Annotated[float, at_least(0), "weight of the loss that holds what is predicted from clean noise"],
    ):
        for name, weight in (("unshift", unshift), ("keep", keep)):
            if weight < 0:
                raise ValueError(f"{name}={weight} is the weight of a loss: choose a value of at least 0")
        self.unshift, self.keep = unshift, keep

    def repair(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> nn.Module:
        """Return the fine-tuned copy; see `Repair.repair`. Raises ValueError without a trigger."""
        if trigger is None:
            raise ValueError("removal works from an inverted trigger and was given none: let an audit invert one first")
        copy = deepcopy(suspect.unet).requires_grad_(True)
        return train(copy, removal_loss(suspect, trigger, images.flip, self.unshift, self.keep))
