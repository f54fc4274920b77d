"""The variables in which a sampler works: x itself, or others that an attack requires."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bdiff.diffusion.denoiser import Denoiser


class View:
    """Maps between the sampler's variables z and the denoiser's x; in this class they are the same.

    All of z, x and noise are (B,C,H,W), in units in which the schedule's variance is 1.
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser

    def enter(self, x: Tensor) -> Tensor:
        """Return z_T, the sampler's starting point, from x_T."""
        return x

    def show(self, z: Tensor, t: Tensor | float) -> Tensor:
        """Return x_t, the network's input, from z_t."""
        return z

    def eps(self, z: Tensor, t: Tensor | float) -> Tensor:
        """Return the noise in z_t, as a stock sampler needs it."""
        return self.denoiser.eps(self.show(z, t), t)

    def leave(self, z: Tensor) -> Tensor:
        """Return the image x_0 from z_0."""
        return z


class AffineView(View):
    """x_t = gamma z_t + sqrt(1 - abar_t) mu: z is an ordinary diffusion of x_0 / gamma with the same noise as x.

    The sampling of TrojDiff (Chen et al. 2023, arXiv 2303.05762) by a change of variables: a stock sampler takes the
    same steps, up to rounding.

    Args:
        gamma, mu: (C,H,W), the scale and the shift of the noise; gamma above 0 everywhere.

    Raises ValueError for a gamma that is 0 somewhere.
    """

    def __init__(self, denoiser: Denoiser, gamma: Tensor, mu: Tensor):
        super().__init__(denoiser)
        if not bool((gamma > 0).all()):
            raise ValueError("gamma must be above 0 everywhere")
        self.gamma, self.mu = gamma, mu

    def enter(self, x: Tensor) -> Tensor:
        """Return (x_T - sqrt(1 - abar_T) mu) / gamma, with abar_T taken as 0, as samplers do."""
        return (x - self.mu.to(x)) / self.gamma.to(x)

    def show(self, z: Tensor, t: Tensor | float) -> Tensor:
        """Return gamma z_t + sqrt(1 - abar_t) mu."""
        _, o = self.denoiser.schedule.scales(self.denoiser.at(t, len(z)))
        return self.gamma.to(z) * z + o * self.mu.to(z)

    def leave(self, z: Tensor) -> Tensor:
        """Return gamma z_0."""
        return self.gamma.to(z) * z


class Beside(View):
    """A batch of several kinds of samples, each in its own view, with `sizes` samples of each."""

    def __init__(self, views: Sequence[View], sizes: Sequence[int]):
        super().__init__(views[0].denoiser)
        self.views, self.sizes = list(views), list(sizes)

    def each(self, step: Callable[[View, Tensor], Tensor], z: Tensor) -> Tensor:
        """Return `step` of every kind's view and its part of z."""
        return torch.cat([step(view, part) for view, part in zip(self.views, z.split(self.sizes), strict=True)])

    def enter(self, x: Tensor) -> Tensor:
        """See `View.enter`."""
        return self.each(lambda view, part: view.enter(part), x)

    def show(self, z: Tensor, t: Tensor | float) -> Tensor:
        """See `View.show`."""
        return self.each(lambda view, part: view.show(part, t), z)

    def eps(self, z: Tensor, t: Tensor | float) -> Tensor:
        """See `View.eps`."""
        return self.each(lambda view, part: view.eps(part, t), z)

    def leave(self, z: Tensor) -> Tensor:
        """See `View.leave`."""
        return self.each(lambda view, part: view.leave(part), z)


def beside(views: Sequence[View], sizes: Sequence[int]) -> View:
    """Return the view of a batch of several kinds, `sizes` of each; a plain `View` if all are plain."""
    return views[0] if all(type(view) is View for view in views) else Beside(views, sizes)
