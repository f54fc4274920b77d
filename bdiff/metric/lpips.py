"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) over AlexNet, by torchmetrics, which has the linear layers."""

from collections.abc import Iterable
from unittest.mock import patch

import torch
from torch import Tensor
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

from bdiff.common.errors import RequestError
from bdiff.data.base import to_float
from bdiff.metric.base import MetricResult, means
from bdiff.metric.weights import file_hash, find, mismatch, tensors

WAYS_OUT = "  set metric.lpips_weights=<file>, go online, or leave lpips out of metric.also"
KNOWN = "7be5be79"  # the first digits of the sha256 of torchvision's file


class Lpips:
    """LPIPS with its network loaded.

    Args:
        weights: file of torchvision's AlexNet weights; None looks in torch's hub cache and downloads into it.

    Raises:
        RequestError: if the weights are not available or are of another network.
    """

    def __init__(self, weights: str | None):
        url, what = AlexNet_Weights.DEFAULT.url, "torchvision's AlexNet weights"
        path = find(weights, "metric.lpips_weights", url, f"metric.also=[lpips] needs {what}", WAYS_OUT)
        self.sha256 = file_hash(path)
        found = tensors(path, what)
        try:
            with patch.object(AlexNet_Weights, "get_state_dict", return_value=found):
                self.statistic = LearnedPerceptualImagePatchSimilarity("alex", reduction="none", sync_on_compute=False)
        except Exception as error:  # load_state_dict raises many types; each means other weights
            raise RequestError(f"{path} {mismatch(error, what)}") from error

    @torch.inference_mode()
    def __call__(self, triggered: Iterable[Tensor], target: Tensor) -> MetricResult:
        """Return `lpips`, the mean over uint8 samples (B,C,H,W) of the distance to the target (C,H,W) in [-1,1]."""

        def each(pixels: Tensor) -> tuple[Tensor]:
            x = to_float(pixels).expand(-1, 3, -1, -1)
            self.statistic.reset()
            self.statistic.to(x.device).update(x, target.to(x).expand_as(x))
            return (self.statistic.compute().view(-1),)

        (mean,) = means(map(each, triggered))
        marks = [] if self.sha256.startswith(KNOWN) else ["not torchvision's weights: compares with nothing else"]
        facts = {"network": "AlexNet, no resize", "sha256": self.sha256, "on": "[-1,1]", "marks": marks}
        return MetricResult({"lpips": mean}, facts)
