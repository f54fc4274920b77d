"""Adversarial Neuron Pruning, ANP (Wu & Wang 2021, arXiv 2110.14430), as BadDiffusion applies it.

BadDiffusion's (arXiv 2212.05400; authors' code): the weights are frozen, and a scale and a shift behind every channel
of the convolutions are trained by Adam to increase the clean DDPM loss, kept within a budget by clamping after each
step. Their code ends there, and samples from the perturbed model. It also perturbs the last convolution, and clamps the
scale itself; here it is the scale's distance from 1, as in Wu & Wang.

Wu & Wang's: channels that are most sensitive to such a perturbation belong to the backdoor, and are pruned. They find
them by a mask trained against the perturbation, for classifiers.

Ours: channels are ranked by their contributions to the increase of the loss, to first order (`rises`). The size of a
channel's change would not do: Adam moves all channels at about the same rate, whatever their effect.
"""

from functools import partial
from itertools import accumulate
from typing import Annotated

import torch
from torch import Tensor, nn

from bdiff.config.rules import above, at_least, positive_fraction
from bdiff.data.base import Images
from bdiff.defense.base import Removal, Suspect, Train
from bdiff.defense.removal.pruning import convolutions, drawn, pruned
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import clean, denoising_loss


class Perturbed(nn.Module):
    """A frozen denoiser: channel c of a convolution gives (1 + change[0,c]) y + change[1,c] for its output y.

    `change` (2, channels of all convolutions in order) is the only trainable parameter, initially zero.
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
        """Return a convolution's output y (B,C,H,W) perturbed; `channels` is the range of its C channels among all."""
        scale, shift = self.change[:, channels, None, None]
        return y * (1 + scale) + shift

    def project(self) -> None:
        """Clamp `change` to +-budget."""
        with torch.no_grad():
            self.change.clamp_(-self.budget, self.budget)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the denoiser's output."""
        prediction: Tensor = self.denoiser(x, t)
        return prediction


class Anp(Removal):
    """Perturbs every channel to increase the loss on clean images, then prunes those that contribute most to it.

    Args:
        budget: maximum distance of a scale from 1, and of a shift (in the output's own unit) from 0; above 0.
        share: fraction of the channels that are pruned, in [0,1].
        count: images, repeated if there are fewer, over which the ranking is averaged.
    """

    def __init__(
        self,
        budget: Annotated[float, above(0), "maximum distance of a channel's scale from 1, and of its shift from 0"],
        share: Annotated[float, positive_fraction, "fraction of the channels that are pruned"],
        count: Annotated[int, at_least(1), "images that the ranking of the channels is averaged over"],
    ):
        self.budget, self.share, self.count = budget, share, count

    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return the pruned denoiser; see `Removal.remove`. The trigger is not used."""
        loss = denoising_loss(clean, suspect.schedule, None, images.flip, suspect.prediction)

        def ascent(net: nn.Module, batch: Batch) -> Tensor:
            perturbed.project()  # before each step instead of after it, as the training loop has no hook
            return -loss(net, batch)

        perturbed = Perturbed(suspect.trainable(), self.budget)
        train(perturbed, ascent)
        perturbed.project()
        ranked = rises(perturbed, loss, images, self.count).argsort(descending=True, stable=True)
        network = pruned(suspect.network, ranked[: round(self.share * len(ranked))])
        return Denoiser(network, suspect.schedule, suspect.shape, prediction=suspect.prediction)


def rises(perturbed: Perturbed, loss: Loss, images: Images, count: int) -> Tensor:
    """Return each channel's contribution to the increase of the clean loss, (channels,), to first order.

    That is change * dloss/dchange at the perturbation found, scale and shift added, as in Taylor pruning (Molchanov
    et al. 2017, arXiv 1611.06440), over `count` images; the same in every process.
    """
    gradient = torch.zeros_like(perturbed.change)
    perturbed.eval()
    for batch in drawn(images, count, gradient.device, "anp"):
        gradient += torch.autograd.grad(loss(perturbed, batch), perturbed.change)[0] * batch.size / count
    return (perturbed.change.detach() * gradient).sum(0)
