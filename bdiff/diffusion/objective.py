"""The objective of denoising: rows as an attack poisons them, or clean ones, against what the network predicts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bdiff.data.base import to_float
from bdiff.diffusion.batch import Batch, Loss, mirrored
from bdiff.diffusion.denoiser import EPSILON, target_of
from bdiff.diffusion.schedule import Schedule


class Rows(NamedTuple):
    """The rows of a step, b of them, on the device."""

    x: Tensor  # (b,C,H,W) images in [-1,1], mirrored where `mirrored` says so
    numbers: Tensor  # (b,) int64, in the training set
    poisoned: Tensor  # (b,) bool
    mirrored: Tensor  # (b,) bool, whether the image is shown left to right


@dataclass(frozen=True)
class Draw:
    """The random numbers of a step: drawn for the whole batch, so that they are the same for any split of it."""

    batch: Batch
    length: int  # of the schedule

    def t(self) -> Tensor:
        """Return timesteps (b,) int64, uniform over the schedule."""
        return self.batch.draw(lambda shape, device: torch.randint(self.length, shape, device=device))

    def eps(self) -> Tensor:
        """Return standard normal noise (b,C,H,W)."""
        return self.batch.draw(torch.randn, *self.batch.pixels.shape[1:])


class Noised(NamedTuple):
    """What a network is trained on."""

    x_t: Tensor  # (b,C,H,W)
    t: Tensor  # (b,) int64
    answer: Tensor  # (b,C,H,W), the noise that the network is to predict, whatever its own parameterisation
    weight: Tensor | None = None  # (b,) of each row in the loss; None: 1


#: takes the schedule, the rows of a step and its random numbers to what the network is trained on
Poison = Callable[[Schedule, Rows, Draw], Noised]


def clean(schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
    """Return ordinary DDPM training of all rows (Ho et al. 2020, algorithm 1)."""
    t, eps = draw.t(), draw.eps()
    return Noised(schedule.add_noise(rows.x, eps, t), t, eps)


def denoising_loss(
    poison: Poison, schedule: Schedule, poisoned: Tensor | None, flip: bool, prediction: str = EPSILON
) -> Loss:
    """Return the DDPM objective (Ho et al. 2020, eq. 14) on rows as `poison` makes them.

    Args:
        poison: `clean`, or that of an attack.
        schedule: on the device of training, as `poisoned`.
        poisoned: (M,) bool, which rows of the training set are; None: no row is.
        flip: whether half of the images are mirrored, at random.
        prediction: what the network predicts, see `bdiff.diffusion.denoiser`; all of it is trained in those terms.
    """

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        rows = shown(batch, poisoned, flip)
        x_t, t, answer, weight = poison(schedule, rows, Draw(batch, len(schedule)))
        wanted = target_of(prediction, schedule, x_t, answer, t)
        if weight is None:
            return mse_loss(net(x_t, t), wanted)
        return (weight * (net(x_t, t) - wanted).square().mean((1, 2, 3))).mean()

    return loss


def shown(batch: Batch, poisoned: Tensor | None, flip: bool) -> Rows:
    """Return the rows of a batch, half of them mirrored where `flip` says so; poisoned (M,) bool, or None."""
    x, nobody = to_float(batch.pixels), torch.zeros_like(batch.rows, dtype=torch.bool)
    mirror = nobody
    if flip:
        x, mirror = mirrored(x, batch)
    return Rows(x, batch.rows, nobody if poisoned is None else poisoned[batch.rows], mirror)
