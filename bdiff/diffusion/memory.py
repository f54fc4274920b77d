"""How many bytes a step of training takes: counted on tensors without content, so for any size on any machine."""

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bdiff.common.device import Alone
from bdiff.diffusion.average import Average
from bdiff.diffusion.batch import Batch
from bdiff.diffusion.denoiser import predict
from bdiff.diffusion.objective import clean, denoising_loss
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.step import Step, recomputing


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, of those made within it."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}  # of storages, by their identity
        self.bytes = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and id(storage := x.untyped_storage()) not in self.sizes:
                self.sizes[id(storage)] = storage.nbytes()
                self.bytes += storage.nbytes()
                self.most = max(self.most, self.bytes)
                finalize(storage, self.freed, id(storage))
        return out

    def freed(self, number: int) -> None:
        """Count a storage no more."""
        self.bytes -= self.sizes.pop(number)


class Plain(nn.Module):
    """A network of diffusers, called as a denoiser is, which nothing moves: tensors without content cannot be."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return its prediction (B,C,H,W) of x (B,C,H,W) at t (B,)."""
        return predict(self.network, x, t)


class Memory(NamedTuple):
    """Bytes on the device."""

    kept: int  # from step to step: weights, the optimizer's state, the average
    most: int  # at any moment of a step

    @property
    def step(self) -> int:
        """Return what a step takes beside: gradients, activations, scratch."""
        return self.most - self.kept


def training_memory(
    network: Callable[[], nn.Module],  # makes one of diffusers
    shape: tuple[int, ...],  # (C,H,W) of an image
    batch: int,
    precision: str = "bf16",
    micro_batch: int | None = None,
    recompute: bool = False,
    ema: float | None = 0.9999,
) -> Memory:
    """Return the bytes that clean training by Adam takes, over two steps; without what libraries take for themselves.

    Mixed precision is counted as a CPU has it: a card keeps the inputs of its norms in fp32, and takes more, at most
    what is counted for fp32.
    """
    with FakeTensorMode(), Alive() as alive:
        model, loss = Plain(network()).eval(), denoising_loss(clean, Schedule(1000, 1e-4, 0.02, "linear"), None, True)
        weights = [*model.parameters()]
        optimizer = torch.optim.Adam(weights, fused=True)
        average = Average(weights, ema) if ema else None
        step = Step(model, loss, precision, Alone(torch.device("cpu")), micro_batch)
        pixels = torch.zeros((batch, *shape), dtype=torch.uint8)
        with recomputing(model, recompute):
            for _ in range(2):
                step(Batch(pixels, torch.arange(batch), slice(0, batch), batch), 0)
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                if average:
                    average.step(weights)
        return Memory(alive.bytes, alive.most)
