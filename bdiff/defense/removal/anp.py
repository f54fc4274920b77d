"""Adversarial Neuron Pruning, ANP (Wu & Wang 2021, arXiv 2110.14430), as BadDiffusion applies it.

BadDiffusion's (arXiv 2212.05400; authors' code): the weights are frozen, and a scale and a shift behind every channel
of the convolutions are trained by Adam to raise the clean DDPM loss, kept within a budget by clamping after each step.
Their code ends there, and looks at what the perturbed model draws. It also perturbs the last convolution, and clamps
the scale itself; here it is the scale's distance from 1, as in Wu & Wang.

Wu & Wang's: channels that such a perturbation hurts most are the backdoor's, and are pruned. They find them by a mask
trained against the perturbation, for classifiers.

Ours: that channels are ranked by the share of the loss's rise that falls to each, to first order (`rises`). How far a
channel was moved would not do: Adam moves all at much the same pace, whatever their effect.
"""

from copy import deepcopy
from functools import partial
from itertools import accumulate
from typing import Annotated

import torch
from torch import Tensor, nn

from bdiff.common.seeds import seed_of
from bdiff.config.rules import above, at_least, positive_fraction
from bdiff.data.base import Images
from bdiff.defense.base import Removal, Suspect, Train
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import clean, denoising_loss

BATCH = 64  # images of a backward pass when channels are ranked


def convolutions(unet: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions whose channels are neurons: all but `conv_out`, whose channels are the image's."""
    return [module for module in unet.modules() if isinstance(module, nn.Conv2d) and module is not unet.conv_out]


class Perturbed(nn.Module):
    """A frozen denoiser: channel c of a convolution gives (1 + change[0,c]) y + change[1,c] for its output y.

    `change` (2, channels of all convolutions in their order) is the only trainable parameter, zero at first.
    """

    def __init__(self, denoiser: Denoiser, budget: float):
        super().__init__()
        self.denoiser, self.budget = denoiser.requires_grad_(False), budget
        convs = convolutions(denoiser.network)
        ends = list(accumulate(conv.out_channels for conv in convs))
        self.change = nn.Parameter(torch.zeros(2, ends[-1]))
        for conv, end in zip(convs, ends, strict=True):
            conv.register_forward_hook(partial(self.perturb, slice(end - conv.out_channels, end)))

    def perturb(self, channels: slice, conv: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """Return a convolution's output y (B,C,H,W) perturbed; `channels` says which of all are its C."""
        scale, shift = self.change[:, channels, None, None]
        return y * (1 + scale) + shift

    def project(self) -> None:
        """Clamp `change` to +-budget."""
        with torch.no_grad():
            self.change.clamp_(-self.budget, self.budget)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return what the denoiser returns."""
        prediction: Tensor = self.denoiser(x, t)
        return prediction


class Anp(Removal):
    """Perturbs every channel to raise the loss on clean images, then prunes those to which most of the rise is due.

    Args:
        budget: most by which a scale differs from 1, and a shift (in the output's own unit) from 0; above 0.
        share: of the channels that are pruned, in [0,1].
        count: images, with repetition where there are fewer, over which the channels' rises are averaged.

    Raises ValueError for other values.
    """

    def __init__(
        self,
        budget: Annotated[float, above(0), "most that a channel's scale moves from 1, and its shift from 0"],
        share: Annotated[float, positive_fraction, "of the channels that are pruned"],
        count: Annotated[int, at_least(1), "images that the ranking of the channels is averaged over"],
    ):
        if budget <= 0:
            raise ValueError(f"budget={budget} lets nothing be perturbed: choose a value above 0")
        if not 0 <= share <= 1:
            raise ValueError(f"share={share} is not a share: choose a value from 0 to 1")
        if count < 1:
            raise ValueError(f"count={count} leaves nothing to rank channels by: choose a value of at least 1")
        self.budget, self.share, self.count = budget, share, count

    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return the pruned denoiser; see `Removal.remove`. The trigger is not used."""
        loss = denoising_loss(clean, suspect.schedule, None, images.flip, suspect.prediction)

        def ascent(net: nn.Module, batch: Batch) -> Tensor:
            perturbed.project()  # here, as the loop is not ours: before a step instead of after the last one
            return -loss(net, batch)

        perturbed = Perturbed(suspect.trainable(), self.budget)
        train(perturbed, ascent)
        perturbed.project()
        ranked = rises(perturbed, loss, images, self.count).argsort(descending=True, stable=True)
        network = pruned(suspect.network, ranked[: round(self.share * len(ranked))])
        return Denoiser(network, suspect.schedule, suspect.shape, prediction=suspect.prediction)


def rises(perturbed: Perturbed, loss: Loss, images: Images, count: int) -> Tensor:
    """Return (channels,) how much of the clean loss's rise each channel's change accounts for, to first order.

    That is change * dloss/dchange at the perturbation found, scale and shift together, as in Taylor pruning (Molchanov
    et al. 2017, arXiv 1611.06440), over `count` images; the same in every process.
    """
    gradient = torch.zeros_like(perturbed.change)
    perturbed.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed_of("anp"))
        for rows in torch.randint(len(images), (count,)).split(BATCH):
            rows = rows.to(gradient.device)
            batch = Batch(images.take(rows).to(gradient.device), rows, slice(len(rows)), len(rows))
            gradient += torch.autograd.grad(loss(perturbed, batch), perturbed.change)[0] * len(rows) / count
    return (perturbed.change.detach() * gradient).sum(0)


@torch.no_grad()
def pruned(unet: nn.Module, channels: Tensor) -> nn.Module:
    """Return a copy whose `channels` (K,), numbered over all convolutions in their order, give zero for any input."""
    copy = deepcopy(unet)
    convs = convolutions(copy)
    sizes = [conv.out_channels for conv in convs]
    gone = torch.zeros(sum(sizes), dtype=torch.bool, device=channels.device)
    gone[channels] = True
    for conv, part in zip(convs, gone.split(sizes), strict=True):
        conv.weight[part] = 0
        if conv.bias is not None:
            conv.bias[part] = 0
    return copy
