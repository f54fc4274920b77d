"""Channels of a network's convolutions, as removals number and prune them."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from bdiff.common.seeds import seed_of
from bdiff.data.base import Images
from bdiff.diffusion.batch import Batch

BATCH = 64  # images per pass of a ranking


def convolutions(unet: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions whose channels count as neurons: all except `conv_out`."""
    return [module for module in unet.modules() if isinstance(module, nn.Conv2d) and module is not unet.conv_out]


def pruned(unet: nn.Module, channels: Tensor) -> nn.Module:
    """Return a copy whose `channels` (K,), numbered over all convolutions in order, are zero for any input.

    Training leaves them so: they get no gradient.
    """
    copy = deepcopy(unet).requires_grad_(True)
    convs = convolutions(copy)
    sizes = [conv.out_channels for conv in convs]
    kept = torch.ones(sum(sizes), dtype=torch.bool, device=channels.device)
    kept[channels] = False
    for conv, part in zip(convs, kept.split(sizes), strict=True):
        for weight in conv.parameters():
            with torch.no_grad():
                weight[~part] = 0
            weight.register_hook(partial(torch.mul, part.to(weight).view(-1, *[1] * (weight.ndim - 1))))
    return copy


def largest(scores: list[Tensor], share: float) -> Tensor:
    """Return the channels with the largest scores of each convolution, numbered over all of them in order.

    `scores` has one (channels,) per convolution, of whose channels a fraction `share` is taken, rounded up.
    """
    first, chosen = 0, []
    for score in scores:
        count = math.ceil(round(share * len(score), 6))
        chosen.append(first + score.argsort(descending=True, stable=True)[:count])
        first += len(score)
    return torch.cat(chosen)


def drawn(images: Images, count: int, device: torch.device, *seed: str) -> Iterator[Batch]:
    """Yield `count` images in batches, repeated if there are fewer; the same in every process.

    Random numbers that are drawn meanwhile are a function of `seed`, and leave those drawn later as they were.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(*seed))
        for rows in torch.randint(len(images), (count,)).split(BATCH):
            rows = rows.to(device)
            yield Batch(images.take(rows).to(device), rows, slice(len(rows)), len(rows))


def watched(convs: list[nn.Conv2d], see: Callable[[int, Tensor], None]) -> list[torch.utils.hooks.RemovableHandle]:
    """Call `see` with the place of a convolution among `convs` and its output at each of its calls, until removed."""

    def hook(place: int, conv: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        see(place, y)

    return [conv.register_forward_hook(partial(hook, place)) for place, conv in enumerate(convs)]
