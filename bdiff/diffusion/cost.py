"""What a network costs: operations and bytes, counted on tensors without content, and operations per second here."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from bdiff.common.device import autocast, synchronize
from bdiff.diffusion.denoiser import predict

TIMED, MOST = 1.0, 3.0  # seconds of calls that a rate is taken over, and after which a single one has to do
WORTH = {"cpu": 2e10, "cuda": 1e12}  # operations of such a call, in at most 128 images


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors alive, of those that are made within it."""

    def __init__(self) -> None:
        super().__init__()
        self.storages, self.most = WeakIdKeyDictionary(), 0

    @property
    def bytes(self) -> int:
        """How many there are now."""
        return sum(self.storages.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        new = [x.untyped_storage() for x in tree_leaves(made) if isinstance(x, Tensor)]
        if any(storage not in self.storages for storage in new):
            self.storages.update({storage: storage.nbytes() for storage in new})
            self.most = max(self.most, self.bytes)
        return made


def operations(network: nn.Module, *inputs: Tensor) -> int:
    """Return the floating-point operations, 2 for a multiplication with its addition, of `network(*inputs)`.

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
    """Return what a pass forth takes; with `gradients`, what is kept of it for the way back, too.

    `network` is one of diffusers, made within `FakeTensorMode`, in which this is called, for images (C,H,W).
    """
    found = []
    for batch in (1, 2):
        x, t = torch.empty((batch, *shape)), torch.zeros(batch, dtype=torch.long)
        with Alive() as alive, torch.set_grad_enabled(gradients), autocast(precision, x.device):
            y = predict(network, x, t)  # alive until here, and with it all that is kept for the way back
            found.append(alive.most)
            del y
    return Scratch(2 * found[0] - found[1], found[1] - found[0])


@torch.inference_mode()
def rate(network: nn.Module, shape: tuple[int, ...], precision: str, device: torch.device, forward: float) -> float:
    """Return the operations per second of a network of diffusers on `device`; `forward` are those of an image."""
    batch = max(2, min(int(WORTH[device.type] / forward), 128))
    network, seconds = network.to(device), [0.0]
    x, t = torch.zeros((batch, *shape), device=device), torch.zeros(batch, dtype=torch.long, device=device)
    while sum(seconds) < TIMED or (len(seconds) == 2 and sum(seconds) < MOST):  # the first call is slower than others
        synchronize(device)
        began = time.monotonic()
        with autocast(precision, device):
            predict(network, x, t)
        synchronize(device)
        seconds.append(time.monotonic() - began)
    return forward * batch / min(seconds[1:])
