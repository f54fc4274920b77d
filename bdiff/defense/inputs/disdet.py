"""DisDet (Sui et al. 2024, arXiv 2402.02739): whether the values of one starting noise are a sample of N(0,1).

Reconstructed from the abstract, which says that the distribution of a noise with a trigger is another. Ours are the
four statistics, the tests that make them comparable, and their combination. It asks no network and knows no model, so
it is the floor for checks that do.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from bdiff.config.rules import at_least
from bdiff.defense.base import Facts, InputCheck, Suspect
from bdiff.diffusion.noise import Noise


def two_sided(z: Tensor) -> Tensor:
    """Return log P(|Z| > |z|) of a standard normal Z, (B,), precise far out."""
    return math.log(2) + torch.special.log_ndtr(-z.abs())


def chi_square_normal(statistic: Tensor, degrees: int) -> Tensor:
    """Return a chi-square statistic as a standard normal one, (B,) (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return ((statistic / degrees) ** (1 / 3) - (1 - spread)) / spread**0.5


def log_p_mean(values: Tensor) -> Tensor:
    """Return the log p-value (B,) of the mean of n values (B,n): sqrt(n) times it is N(0,1)."""
    return two_sided(values.mean(1) * values.shape[1] ** 0.5)


def log_p_variance(values: Tensor) -> Tensor:
    """Return the log p-value (B,) of the variance of n values (B,n): n - 1 times it is chi-square, n - 1 degrees."""
    degrees = values.shape[1] - 1
    return two_sided(chi_square_normal(values.var(1) * degrees, degrees))


def log_p_divergence(values: Tensor, bins: int) -> Tensor:
    """Return the log p-value (B,) of the histogram of n values (B,n) over bins of one probability under N(0,1).

    2n times its KL divergence from the uniform distribution is chi-square with bins - 1 degrees in the limit (Wilks
    1938); only a large divergence is evidence.
    """
    count = values.shape[1]
    place = (torch.special.ndtr(values) * bins).long().clamp(max=bins - 1)
    share = torch.zeros(len(values), bins, dtype=values.dtype, device=values.device)
    share.scatter_add_(1, place, torch.full_like(values, 1 / count))
    divergence = (torch.special.xlogy(share, share * bins)).sum(1)
    return torch.special.log_ndtr(-chi_square_normal(2 * count * divergence, bins - 1))


def log_p_kolmogorov(values: Tensor, terms: int = 20) -> Tensor:
    """Return the log p-value (B,) of the largest distance D of the distribution of n values (B,n) from N(0,1)'s.

    P = 2 sum_k (-1)^(k-1) exp(-2 k^2 l^2), l = D (sqrt(n) + .12 + .11 / sqrt(n)) (Kolmogorov 1933; Stephens 1970).
    """
    count = values.shape[1]
    below = torch.special.ndtr(values.sort(1).values)
    steps = torch.arange(count + 1, device=values.device) / count
    distance = torch.maximum(steps[1:] - below, below - steps[:-1]).amax(1)
    scaled = distance * (count**0.5 + 0.12 + 0.11 / count**0.5)
    k = torch.arange(1, terms + 1, device=values.device)
    signs = 1 - 2 * ((k - 1) % 2)
    series = (signs * (-2 * (k.square() - 1) * scaled[:, None].square()).exp()).sum(1)  # without its largest factor
    certain = scaled < 0.3  # where so few terms do not converge, and P is 1 to five digits
    return torch.where(certain, 0.0, math.log(2) - 2 * scaled.square() + series.clamp(min=1e-12).log()).clamp(max=0)


@dataclass
class DisDet(InputCheck):
    """Scores a noise by minus the logarithm of the smallest p-value of four tests against N(0,1) (Tippett 1931)."""

    bins: Annotated[int, at_least(2), "of the histogram, each of the same probability under N(0,1)"]

    def score(self, x: Tensor, suspect: Suspect, noise: Noise, facts: Facts) -> Tensor:
        """Return -log p (B,) of mean, variance, histogram or Kolmogorov distance; see `InputCheck.score`."""
        values = x.flatten(1).double()
        tests = (log_p_mean, log_p_variance, log_p_kolmogorov)
        found = [test(values) for test in tests] + [log_p_divergence(values, self.bins)]
        return -torch.stack(found).amin(0)
