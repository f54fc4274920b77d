"""The one place that calls a network: with its parameterisation and precision, and its output converted to noise."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bdiff.common.device import to_device
from bdiff.diffusion.engine import Engine
from bdiff.diffusion.schedule import Schedule

EPSILON, SAMPLE, VELOCITY = PREDICTIONS = ("epsilon", "sample", "v_prediction")  # in diffusers' words


class Denoiser(nn.Module):
    """A network with its noise schedule and its parameterisation: it predicts noise, x0 or v.

    Args:
        network: a diffusers UNet2DModel, or what is called as one: `network(x, t, return_dict=False)[0]`.
        schedule: variance-preserving; moved to `device`.
        shape: (C,H,W) of what is denoised.
        device: for the network and the schedule; None for the network's own.
        prediction: epsilon, sample (x0) or v_prediction (Salimans & Ho 2022, arXiv 2202.00512, appendix D).
        precision: fp32 or bf16, of matrix products in `eps`; `forward` runs in the caller's autocast context.
        recompute: keep no activations for the backward pass of `eps`, and compute them a second time; a number: so many
            images at a time, which bounds the memory of any batch.

    Raises ValueError for another prediction.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        shape: tuple[int, ...],
        device: torch.device | None = None,
        prediction: str = EPSILON,
        precision: str = "fp32",
        recompute: bool | int = False,
    ):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction={prediction} is not known: choose from {', '.join(PREDICTIONS)}")
        device = device or next((weight.device for weight in network.parameters()), torch.device("cpu"))
        self.network, self.schedule, self.shape = network.to(device), schedule.to(device), tuple(shape)
        self.prediction, self.precision, self.recompute = prediction, precision, recompute
        self.engine = Engine(self.network, predict, precision)
        self.evaluations = 0  # images that `eps` has evaluated so far
        self.timesteps = torch.arange(len(schedule), device=device)  # a timestep is a view of it, not a copy

    @property
    def device(self) -> torch.device:
        """Where the schedule, the network and its inputs are."""
        return self.schedule.abar.device

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the network's own prediction (B,C,H,W), float32, of x (B,C,H,W) at t (B,): what losses compare."""
        return predict(self.network, x, t)

    def eps(self, x: Tensor, t: Tensor | int | float) -> Tensor:
        """Return the predicted noise (B,C,H,W), float32, of x (B,C,H,W) at timesteps t, one for all or (B,).

        x has the schedule's variance, 1; t may lie between timesteps, as some samplers have them.
        """
        assert x.shape[1:] == self.shape, (x.shape, self.shape)
        self.evaluations += len(x)
        t = self.at(t, len(x))

        raw = self.recomputed(x, t) if self.recompute and x.requires_grad else self.engine(x, t)
        return eps_of(self.prediction, self.schedule, x, raw, t)

    def recomputed(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the network's prediction of x (B,C,H,W) at t (B,), of which no activations are kept."""
        most = len(x) if self.recompute is True else int(self.recompute)
        parts = zip(x.split(most), t.split(most), strict=True)
        return torch.cat([checkpoint(self.engine, *part, use_reentrant=False) for part in parts])

    def at(self, t: Tensor | int | float, count: int) -> Tensor:
        """Return timesteps t as the network takes them: on the device, one for each of `count` images."""
        if isinstance(t, int):
            t = self.timesteps[t]
        return torch.as_tensor(t, device=self.device).expand(count)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return standard normal noise (count,C,H,W) on the device, drawn on the CPU so that devices agree."""
        return to_device(torch.randn((count, *self.shape), generator=generator), self.device)

    def example(self, count: int) -> tuple[Tensor, Tensor]:
        """Return what the network may be asked: `count` images of noise at the last timestep."""
        return self.noise(count, torch.Generator().manual_seed(0)), self.at(len(self.schedule) - 1, count)

    def trainable(self) -> "Denoiser":
        """Return a copy whose weights can be trained; it runs in the training's autocast context."""
        network = deepcopy(self.network).requires_grad_(True)
        return Denoiser(network, self.schedule, self.shape, prediction=self.prediction)


class Suspect(Denoiser):
    """A frozen denoiser, as defenses see it. Gradients flow to its inputs, not to its weights."""

    def __init__(self, *args: object, **options: object):
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.eval().requires_grad_(False)


def predict(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """Return a network's own prediction (B,C,H,W), float32, of x (B,C,H,W) at t (B,)."""
    prediction: Tensor = network(x, t, return_dict=False)[0].float()
    return prediction


def eps_of(prediction: str, schedule: Schedule, x_t: Tensor, raw: Tensor, t: Tensor) -> Tensor:
    """Return the noise (B,C,H,W) in x_t that a network's `raw` prediction (B,C,H,W) at t (B,) stands for.

    With s = sqrt(abar_t), o = sqrt(1 - abar_t): x_t = s x0 + o eps and v = s eps - o x0, so eps = (x_t - s x0) / o, and
    eps = s v + o x_t.
    """
    if prediction == EPSILON:
        return raw
    s, o = schedule.scales(t)
    return (x_t - s * raw) / o if prediction == SAMPLE else s * raw + o * x_t


def target_of(prediction: str, schedule: Schedule, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return what a network has to predict (B,C,H,W) for `eps_of` to give `eps`; see there. The inverse of `eps_of`."""
    if prediction == EPSILON:
        return eps
    s, o = schedule.scales(t)
    return (x_t - o * eps) / s if prediction == SAMPLE else (eps - o * x_t) / s
