"""The backdoor as steganography: how well the target is extracted (Hiding Images in Diffusion Models, 2503.18459)."""

from collections.abc import Iterable

from torch import Tensor

from bdiff.data.base import to_uint8
from bdiff.metric.base import MetricResult, means
from bdiff.metric.psnr import STATED, psnr
from bdiff.metric.target import ssim


def secret(triggered: Iterable[Tensor], target: Tensor) -> MetricResult:
    """Return `secret_psnr` in dB and `secret_ssim`, means over uint8 triggered samples (B,C,H,W).

    Both against the target (C,H,W) in [-1,1] rounded to 8 bits, as it is extracted.
    """
    hidden = to_uint8(target)

    def each(pixels: Tensor) -> tuple[Tensor, Tensor]:
        secrets = hidden.to(pixels.device).expand_as(pixels)
        return psnr(pixels, secrets), ssim(pixels / 255, secrets / 255)

    ratio, likeness = means(map(each, triggered))
    facts = {**STATED, "against": "the target in 8 bits"}
    return MetricResult({"secret_psnr": ratio, "secret_ssim": likeness}, facts)
