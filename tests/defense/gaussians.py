"""A denoiser in closed form: what a network would learn that fits a backdoored mixture of Gaussians perfectly."""

import torch
from torch import Tensor, nn

from bdiff.schedule import Schedule, per_image


class PoisonedGaussians(nn.Module):
    """The noise prediction of least squared error under BadDiffusion with the one stamped image r.

    Clean rows x0 ~ N(mean_k, deviation^2 I), every k alike, regress on eps; a share `rate` of the rows diffuses the
    target y towards r, x_t = sqrt(abar) y + (1 - sqrt(abar)) r + sqrt(1 - abar) eps, and regresses on eps + c_t r.
    Given x_t and its mode either is known or a Gaussian's conditional mean, so the best prediction of all is these,
    weighted by each mode's posterior. With rate = 0 it is a clean model's.
    """

    def __init__(
        self,
        schedule: Schedule,
        means: Tensor,  # (K,C,H,W)
        deviation: float,
        trigger: Tensor,  # r, (C,H,W)
        target: Tensor,  # y, (C,H,W)
        rate: float,  # 0 to 1
    ):
        super().__init__()
        self.schedule, self.deviation, self.rate = schedule, deviation, rate
        self.means, self.trigger, self.target = nn.Parameter(means), nn.Parameter(trigger), nn.Parameter(target)

    def posterior(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return each mode's probability (K+1,B,1,1,1) given x (B,C,H,W) at t (B,), and its prediction (K+1,B,C,H,W).

        The poisoned mode is the last.
        """
        alpha, abar = per_image(self.schedule.alphas, t), per_image(self.schedule.abar, t)
        spread = abar * self.deviation**2 + 1 - abar
        clean = x - abar.sqrt() * self.means[:, None]
        bad = (x - abar.sqrt() * self.target - (1 - abar.sqrt()) * self.trigger)[None]
        weights = torch.tensor([(1 - self.rate) / len(self.means)] * len(self.means) + [self.rate])
        variances = torch.stack([spread] * len(self.means) + [1 - abar])
        distances = torch.cat([clean, bad]).square().sum((2, 3, 4), keepdim=True)
        pixels = x[0].numel()
        odds = weights.log().view(-1, 1, 1, 1, 1) - distances / (2 * variances) - pixels / 2 * variances.log()
        shift = (1 - abar).sqrt() / (1 + alpha.sqrt())  # c_t
        predictions = [clean * (1 - abar).sqrt() / spread, bad / (1 - abar).sqrt() + shift * self.trigger]
        return odds.softmax(0), torch.cat(predictions)

    def forward(self, x: Tensor, t: Tensor | int, return_dict: bool = False) -> tuple[Tensor]:
        """Return the prediction (B,C,H,W) as diffusers' networks do without their dictionary."""
        assert not return_dict
        odds, predictions = self.posterior(x, torch.as_tensor(t).expand(len(x)))
        return ((odds * predictions).sum(0),)
