"""The variables in which a sampler works: x itself, or others that an attack requires."""

from typing import Any

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

    def scheduler(self, stock: Any) -> Any:
        """Return the diffusers scheduler that samples z and clips x_0, where `stock` would sample and clip x."""
        return stock


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

    def scheduler(self, stock: Any) -> Any:
        """Return the scheduler with its bound of z_0 = x_0 / gamma divided by gamma, pixel by pixel, if it clips."""
        if not stock.config.get("clip_sample"):
            return stock
        bound = stock.config.clip_sample_range / self.gamma.to(self.denoiser.schedule.abar)
        return stock.from_config(stock.config, clip_sample_range=bound)


class ShiftedNoise(View):
    """x itself, whose noise is gamma eps + mu: of ODE samplers the same samples as `AffineView`, and gamma may be 0.

    An ancestral sampler would add noise of variance 1 to x, and leave the path on which the model was trained.

    Args:
        gamma, mu: (C,H,W), the scale and the shift of the noise; gamma 0 or above.
    """

    def __init__(self, denoiser: Denoiser, gamma: Tensor, mu: Tensor):
        super().__init__(denoiser)
        self.gamma, self.mu = gamma, mu

    def eps(self, z: Tensor, t: Tensor | float) -> Tensor:
        """Return gamma eps + mu, of the predicted eps."""
        return self.gamma.to(z) * super().eps(z, t) + self.mu.to(z)


def affine(ode: bool) -> type[AffineView] | type[ShiftedNoise]:
    """Return the view of noise that is scaled and shifted, by the sampler's family.

    For ODE samplers that in x, where gamma may be 0 and nothing is divided by it.
    """
    return ShiftedNoise if ode else AffineView
