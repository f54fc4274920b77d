"""Fine-pruning (Liu et al. 2018, arXiv 1805.12185), reconstructed for denoisers: prune what clean inputs leave unused.

A classifier's backdoor sits in neurons that clean images hardly activate. So its authors prune the channels of the last
convolution with the least mean activation on clean images, and fine-tune the rest on clean images.

Carried over here: a denoiser's clean inputs are clean images noised at every timestep, and its answer comes from all
of its layers, of which none is the last one that sees features. So channels of all convolutions are ranked, by the mean
magnitude of their output relative to that of their convolution: the scale of a convolution's output means nothing, as
normalisations follow it.
"""

from typing import Annotated

import torch
from torch import Tensor

from bdiff.config.rules import at_least, positive_fraction
from bdiff.data.base import Images
from bdiff.defense.base import Removal, Suspect, Train
from bdiff.defense.removal.pruning import convolutions, drawn, pruned, watched
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import Draw, clean, denoising_loss, shown


class FinePruning(Removal):
    """Prunes the channels that are least active on noised clean images, and fine-tunes the others on clean images.

    Args:
        share: fraction of the channels that are pruned, in [0,1].
        count: noised images, repeated if there are fewer, that activations are averaged over.
    """

    def __init__(
        self,
        share: Annotated[float, positive_fraction, "fraction of the channels that are pruned"],
        count: Annotated[int, at_least(1), "noised images that activations are averaged over"],
    ):
        self.share, self.count = share, count

    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return the pruned and fine-tuned copy; see `Removal.remove`. The trigger is not used."""
        ranked = torch.cat(activity(suspect, images, self.count)).argsort(stable=True)
        network = pruned(suspect.network, ranked[: round(self.share * len(ranked))])
        copy = Denoiser(network, suspect.schedule, suspect.shape, prediction=suspect.prediction)
        train(copy, denoising_loss(clean, copy.schedule, None, images.flip, copy.prediction))
        return copy


@torch.no_grad()
def activity(suspect: Suspect, images: Images, count: int) -> list[Tensor]:
    """Return each convolution's activations (channels,): mean magnitudes of its output relative to their mean.

    Over `count` images noised at timesteps drawn uniformly; the same in every process.
    """
    convs = convolutions(suspect.network)
    sums = [torch.zeros(conv.out_channels, device=suspect.device) for conv in convs]

    def see(place: int, y: Tensor) -> None:
        sums[place] += y.abs().mean((2, 3)).sum(0)

    handles = watched(convs, see)
    for batch in drawn(images, count, suspect.device, "fine-pruning"):
        x_t, t, *_ = clean(suspect.schedule, shown(batch, None, images.flip), Draw(batch, len(suspect.schedule)))
        suspect(x_t, t)
    for handle in handles:
        handle.remove()
    return [total / total.mean().clamp(min=torch.finfo(total.dtype).tiny) for total in sums]
