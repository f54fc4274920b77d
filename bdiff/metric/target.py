"""The distance of triggered samples from the attacker's target."""

import math
from collections.abc import Iterable

from torch import Tensor

from bdiff.metric.base import means


def asr_threshold(configured: float | None, size: int) -> float:
    """Return the per-image MSE below which a sample hits the target: 0.05 up to 32 px, 0.1 above (Elijah's code)."""
    if configured is not None:
        return configured
    return 0.05 if size <= 32 else 0.1


def compare(batches: Iterable[Tensor], target: Tensor, threshold: float) -> dict[str, float]:
    """Return mse, ssim, psnr, asr and asr_se of uint8 samples (B,C,H,W) against the target (C,H,W) in [-1,1].

    All on [0,1]. MSE and SSIM are means over images, PSNR is that of the mean MSE, ASR the fraction of images with an
    MSE below `threshold`, and asr_se the standard error of that fraction, sqrt(p (1 - p) / n). PSNR is absent if the
    MSE is zero.
    """
    count = 0

    def each(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal target, count
        count += len(pixels)
        target = target.to(pixels.device)  # no copy after the first batch
        x = pixels.float() / 255
        y = ((target.float() + 1) / 2).expand_as(x)
        mse = (x - y).square().mean((1, 2, 3))
        return mse, ssim(x, y), mse < threshold

    mse, likeness, hits = means(map(each, batches))
    values = {"mse": mse, "ssim": likeness, "asr": hits, "asr_se": math.sqrt(hits * (1 - hits) / count)}
    if mse > 0:
        values["psnr"] = 10 * math.log10(1 / mse)
    return values


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the SSIM (Wang et al. 2004), (B,), of images (B,C,H,W) on [0,1] with as many others."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # here: it takes long to import

    found = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.view(-1)
