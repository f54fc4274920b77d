"""Per-image PSNR of 8-bit images, as the steganography literature reports it."""

import torch
from torch import Tensor

#: the MSE of rounding to 8 bits, on [0,1]; a smaller one is not meaningful, and an exact match would be infinite
FLOOR = 1 / 255**2 / 12
#: facts for protocols
STATED = {"on": "8-bit images, [0,1], mean over images", "floor": "per-image MSE at least 1/255^2/12: at most 58.92 dB"}


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """Return the PSNR in dB, (B,) float64, of uint8 images (B,C,H,W) against others of that shape or (C,H,W)."""
    error = ((one.double() - other.double()) / 255).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp(min=FLOOR))
