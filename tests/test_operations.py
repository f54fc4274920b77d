"""What a network costs, counted on tensors without content, against formulas and what torch allocates."""

import time

import torch
import toys
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bdiff.diffusion.cost import operations, rate, scratch


def test_operations_are_two_for_each_multiplication():
    with torch.device("meta"):
        conv, x = nn.Conv2d(3, 8, 3, padding=1), torch.empty(5, 3, 16, 16)
    assert operations(conv, x) == 2 * 5 * 16 * 16 * 8 * 3 * 9


def test_what_is_kept_for_the_way_back_is_what_autograd_saves():
    shape, batch = (1, toys.SIZE, toys.SIZE), 6
    with FakeTensorMode():
        forth, back = (scratch(frozen(), shape, "fp32", gradients) for gradients in (False, True))
    network, saved = frozen(), {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = network(
            torch.zeros(batch, *shape, requires_grad=True), torch.zeros(batch, dtype=torch.long), return_dict=False
        )[0]
    kept = sum(size for place, size in saved.items() if place not in weights)
    assert y.requires_grad and kept <= back.of(batch) <= 1.3 * kept
    assert forth.of(batch) < back.of(batch) / 2


def test_a_rate_is_operations_of_images_a_second():
    shown = []

    def network(x: torch.Tensor) -> None:
        shown.append(len(x))
        time.sleep(0.1)

    found = rate(network, (1, toys.SIZE, toys.SIZE), torch.device("cpu"), 1e9)
    assert {*shown} == {20} and len(shown) >= 5  # calls of 2e10 operations, for a second
    assert 1e11 < found <= 2e11


def frozen() -> nn.Module:
    return toys.unet().requires_grad_(False)
