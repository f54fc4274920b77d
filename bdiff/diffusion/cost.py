"""What a pass through a network costs: operations and bytes, counted without content, and how fast it is here."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bdiff.common.device import autocast, synchronize
from bdiff.diffusion.denoiser import predict
from bdiff.diffusion.memory import Alive

TIMED, MOST = 1.0, 3.0  # seconds of calls that a rate is taken over, and after which a single one has to do
WORTH = {"cpu": 2e10, "cuda": 1e12}  # operations of such a call, at most
IMAGES = 128  # of it, at most


def operations(network: Callable[..., Any], *inputs: Tensor) -> int:
    """Return the floating-point operations, two for a multiplication and its addition, of `network(*inputs)`.

    Everything is on the meta device.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


class Scratch(NamedTuple):
    """Bytes that a pass through a network takes beside its weights, at the most."""

    once: int  # whatever the batch
    image: int

    def of(self, batch: int) -> int:
        """Return how many a batch takes."""
        return self.once + batch * self.image


def scratch(network: nn.Module, shape: tuple[int, ...], precision: str, gradients: bool) -> Scratch:
    """Return what a forward pass takes; with `gradients`, what is kept of it for those to its input, too.

    `network` is one of diffusers for images (C,H,W), its weights frozen, and made within `FakeTensorMode`, in which
    this is called.
    """
    found = []
    for batch in (1, 2):
        x, t = torch.empty((batch, *shape)).requires_grad_(gradients), torch.zeros(batch, dtype=torch.long)
        with Alive() as alive, torch.set_grad_enabled(gradients), autocast(precision, x.device):
            y = predict(network, x, t)  # alive until here, and with it all that is kept for the way back
            found.append(alive.most)
            del y
    return Scratch(2 * found[0] - found[1], found[1] - found[0])


@torch.inference_mode()
def rate(
    network: Callable[[Tensor], Any], shape: tuple[int, ...], device: torch.device, forward: float, batch: int = IMAGES
) -> float:
    """Return the operations per second of `network` of images (B,C,H,W) on `device`; `forward` are those of one.

    `batch` is the most that it is shown at a time: small batches are slower.
    """
    batch = max(2, min(int(WORTH[device.type] / forward), batch, IMAGES))
    x, seconds = torch.zeros((batch, *shape), device=device), [0.0]
    while sum(seconds) < TIMED or (len(seconds) == 2 and sum(seconds) < MOST):  # the first call is slower than others
        synchronize(device)
        began = time.monotonic()
        network(x)
        synchronize(device)
        seconds.append(time.monotonic() - began)
    return forward * batch / min(seconds[1:])
