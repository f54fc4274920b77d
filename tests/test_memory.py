"""Bytes of a training step, counted without content: a closed form, what each setting saves, and the published size."""

from collections.abc import Callable

import pytest
import toys
from diffusers import UNet2DModel

from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.diffusion.memory import training_memory

SHAPE = (1, 8, 8)


def test_what_is_kept_is_weights_two_moments_and_the_average():
    count = sum(weight.numel() for weight in toys.unet().parameters())
    with_average = training_memory(toys.unet, SHAPE, 4, "fp32").kept
    without = training_memory(toys.unet, SHAPE, 4, "fp32", ema=None).kept
    assert with_average - without == 4 * count
    assert 12 * count <= without <= 12 * count + 32_000  # the schedule's tables and pixels, beside


@pytest.mark.slow
def test_pieces_and_recomputation_take_less():
    whole = training_memory(toys.unet, SHAPE, 16, "fp32").step
    assert training_memory(toys.unet, SHAPE, 32, "fp32").step > 1.7 * whole
    assert training_memory(toys.unet, SHAPE, 16, "fp32", micro_batch=4).step < 0.5 * whole
    assert training_memory(toys.unet, SHAPE, 16, "fp32", recompute=True).step < 0.8 * whole
    assert training_memory(toys.unet, SHAPE, 16, "bf16").step < whole


def published() -> tuple[Callable[[], UNet2DModel], tuple[int, int, int]]:
    """The 113.7 M network, and the shape of its images."""
    (config,) = jobs(["data=celebahq", "model=ddpm256"], False)
    return lambda: make(config.model.unet), (config.data.channels, config.data.size, config.data.size)


@pytest.mark.slow
def test_batch_64_of_the_network_for_256_px_fits_80_gb():
    network, shape = published()
    assert training_memory(network, shape, 2, "fp32").step > 2 * 2e9  # and so 64 images do not fit as they are
    assert training_memory(network, shape, 64, "fp32", micro_batch=16, recompute=True).most < 80e9 / 4
