"""How much of a benign user's images a backdoor changes (Hiding Images in Diffusion Models, arXiv 2503.18459)."""

from collections.abc import Iterable

from torch import Tensor

from bdiff.metric.base import MetricResult, means
from bdiff.metric.psnr import STATED, psnr


def sample_psnr(suspect: Iterable[Tensor], clean: Iterable[Tensor]) -> MetricResult:
    """Return `sample_psnr` in dB of un-triggered uint8 samples (B,C,H,W) against a clean model's in the same noise."""
    (mean,) = means((psnr(one, other),) for one, other in zip(suspect, clean, strict=True))
    return MetricResult({"sample_psnr": mean}, dict(STATED))
