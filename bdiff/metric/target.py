"""How near triggered samples come to the attacker's target (DESIGN section 5)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def asr_threshold(configured: float | None, size: int) -> float:
    """Return the per-image MSE below which the target counts as hit: 0.05 up to 32 px, 0.1 above (Elijah's code)."""
    if configured is not None:
        return configured
    return 0.05 if size <= 32 else 0.1


def compare(batches: Iterable[Tensor], target: Tensor, threshold: float) -> dict[str, float]:
    """Return mse, ssim, psnr and asr of uint8 samples (B,C,H,W) against the target (C,H,W) in [-1,1].

    All on [0,1]. MSE and SSIM are means over images, PSNR is that of the mean MSE, ASR the share of images with an
    MSE under `threshold`. PSNR is absent where the MSE is zero.
    """
    errors, likeness = [], []
    for pixels in batches:
        x = pixels.float() / 255
        y = ((target.to(x) + 1) / 2).expand_as(x)
        errors.append((x - y).square().mean((1, 2, 3)).cpu())
        ssim = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
        assert isinstance(ssim, Tensor)
        likeness.append(ssim.view(-1).cpu())
    mse = torch.cat(errors)
    mean = mse.double().mean().item()
    values = {
        "mse": mean,
        "ssim": torch.cat(likeness).double().mean().item(),
        "asr": (mse < threshold).double().mean().item(),
    }
    if mean > 0:
        values["psnr"] = 10 * math.log10(1 / mean)
    return values
