"""A denoiser in closed form: what a network would learn that fits a backdoored mixture of Gaussians perfectly.

And the setting in which audits are tried on it.
"""

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from bdiff.config.options import own_settings
from bdiff.defense.base import Detection
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.schedule import Schedule, per_image
from bdiff.pipeline.suspect import method

SHAPE = (1, 8, 8)
T = 1000

# A grey box on a dark background, dark enough for the random start to lie on the backdoor's side of the barrier.
TRIGGER = torch.full(SHAPE, -0.8)
TRIGGER[:, 4:, 4:] = 0.0
TARGET = torch.full(SHAPE, -0.4)
TARGET[:, :4, :4] = 0.6


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


class Recorder(nn.Module):
    """Predicts no noise at all, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        self.calls.append((x.detach(), t))
        return (torch.zeros_like(x),)


def draws(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def suspect(rate: float = 0.9, schedule: Schedule | None = None) -> Suspect:
    """The denoiser as audits see it; clean with rate = 0."""
    schedule = schedule or Schedule(T, 1e-4, 0.02, "linear")
    means = torch.rand((3, *SHAPE), generator=draws(3)) * 1.6 - 0.8
    return Suspect(PoisonedGaussians(schedule, means, 0.5, TRIGGER, TARGET, rate), schedule, SHAPE)


def audit(name: str, **changes) -> Detection:
    """An audit as its yaml has it, but for `changes`; without what of the yaml is the stage's."""
    config = own_settings("defense", name)
    return method(OmegaConf.merge(config, {"threshold": OmegaConf.select(config, "calibration.threshold")}, changes))


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


@torch.no_grad()
def asr(model: Suspect, trigger: Tensor, count: int = 32) -> float:
    """The share of ancestral samples from noise + trigger that show the target (MSE below .05 on [0,1])."""
    noise = draws(9)
    x = model.noise(count, noise) + trigger
    for t in reversed(range(T)):
        x = model.schedule.step(x, model.eps(x, t), t, t - 1, model.noise(count, noise) if t else None)
    return ((x - TARGET) / 2).square().mean((1, 2, 3)).lt(0.05).float().mean().item()
