"""The denoising objective, on rows poisoned by an attack or on clean ones."""

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
    """The random numbers of a step: drawn for the global batch, so that they do not depend on how it is split."""

    batch: Batch
    length: int  # of the schedule

    def t(self) -> Tensor:
        """Return timesteps (b,) int64, uniform over the schedule."""
        return self.batch.draw(lambda shape, device: torch.randint(self.length, shape, device=device))

    def eps(self) -> Tensor:
        """Return standard normal noise (b,C,H,W)."""
        return self.batch.draw(torch.randn, *self.batch.pixels.shape[1:])

    def uniform(self) -> Tensor:
        """Return numbers (b,), uniform in [0,1), for attacks whose rows differ in more than timestep and noise."""
        return self.batch.draw(torch.rand)


class Noised(NamedTuple):
    """The training input and target of the network."""

    x_t: Tensor  # (b,C,H,W)
    t: Tensor  # (b,) int64
    answer: Tensor  # (b,C,H,W), the noise that the network should predict, whatever its parameterisation


#: maps the schedule, the rows of a step and its random numbers to what the network is trained on
Poison = Callable[[Schedule, Rows, Draw], Noised]


def clean(schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
    """Return all rows noised for ordinary DDPM training (Ho et al. 2020, algorithm 1)."""
    t, eps = draw.t(), draw.eps()
    return Noised(schedule.add_noise(rows.x, eps, t), t, eps)


def denoising_loss(
    poison: Poison, schedule: Schedule, poisoned: Tensor | None, flip: bool, prediction: str = EPSILON
) -> Loss:
    """Return the DDPM objective (Ho et al. 2020, eq. 14) on rows noised by `poison`.

    Args:
        poison: `clean`, or an attack's.
        schedule: on the training device, as is `poisoned`.
        poisoned: (M,) bool, which rows of the training set are poisoned; None: none.
        flip: whether images are mirrored with probability 1/2.
        prediction: the network's parameterisation, see `bdiff.diffusion.denoiser`; the loss is taken in it.
    """

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        rows = shown(batch, poisoned, flip)
        x_t, t, answer = poison(schedule, rows, Draw(batch, len(schedule)))
        return mse_loss(net(x_t, t), target_of(prediction, schedule, x_t, answer, t))

    return loss


def shown(batch: Batch, poisoned: Tensor | None, flip: bool) -> Rows:
    """Return the rows of a batch, half of them mirrored if `flip`; poisoned (M,) bool, or None."""
    x, none = to_float(batch.pixels), torch.zeros_like(batch.rows, dtype=torch.bool)
    mirror = none
    if flip:
        x, mirror = mirrored(x, batch)
    return Rows(x, batch.rows, none if poisoned is None else poisoned[batch.rows], mirror)
