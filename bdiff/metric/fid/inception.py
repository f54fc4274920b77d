"""pytorch-fid's InceptionV3 with the 2015-12-05 weights: the features of published FIDs."""

from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

from pytorch_fid import inception
from torch import Tensor, nn

from bdiff.common.errors import RequestError
from bdiff.metric.fid.base import Features
from bdiff.metric.fid.protocol import PublishedDistance
from bdiff.metric.weights import file_hash, find, mismatch, tensors

WAYS_OUT = "  set metric.fid.weights=<file>, go online, or use the run's own classifier (metric/fid=classifier)"


class InceptionFeatures(Features):
    """The 2,048 activations of the last pooling; images are resized to 299 px bilinearly, grey ones repeated.

    Args:
        weights: file of pytorch-fid's weights; None looks in torch's hub cache and downloads into it.
        sha256: the first digits of the file's hash.

    Raises:
        RequestError: if the weights are not available or have another hash.
    """

    suffix = ""
    settings = PublishedDistance
    num_features = 2048
    head: Tensor  # (1008, 2048)

    def __init__(
        self,
        weights: Annotated[str | None, "a file of pytorch-fid's weights; null: torch's hub cache, or downloaded"],
        sha256: Annotated[str, "first digits of the file's sha256; other weights are not comparable"],
    ):
        super().__init__()
        path = find(
            weights,
            "metric.fid.weights",
            inception.FID_WEIGHTS_URL,
            "metric/fid=inception needs pytorch-fid's Inception weights",
            WAYS_OUT,
        )
        self.sha256 = file_hash(path)
        if not self.sha256.startswith(sha256):
            raise RequestError(
                f"{path} has sha256 {self.sha256[:8]}..., not {sha256}...: it is not the file of published FIDs "
                f"(metric.fid.sha256={self.sha256[:8]} accepts it, for numbers that are not comparable with others)"
            )
        self.network, head = build(path)
        self.register_buffer("head", head)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, 2048) activations of uint8 images (B,C,H,W)."""
        x = pixels.float() / 255
        return self.network(x.expand(-1, 3, -1, -1))[0].flatten(1)

    def logits(self, activations: Tensor) -> Tensor:
        """Return (B, 1008) logits without the bias, as the Inception score is taken (Salimans et al. 2016, code)."""
        return activations @ self.head.to(activations).T

    def identity(self) -> dict[str, Any]:
        """Return the extractor's name, the weights' hash and the resize mode."""
        return {
            "extractor": "pytorch-fid InceptionV3, pool3",
            "sha256": self.sha256,
            "resize": "299 px, bilinear, by torch on [0,1]",
        }


def build(path: Path) -> tuple[nn.Module, Tensor]:
    """Return pytorch-fid's network with the weights in `path`, and its last layer's (1008, 2048).

    pytorch-fid would unpickle the file, so it is given the tensors instead, read with weights_only. Raises RequestError
    if the file holds other weights, or code.
    """
    what = "pytorch-fid's Inception weights"
    weights = tensors(path, what)
    try:
        with patch.object(inception, "load_state_dict_from_url", return_value=weights):
            return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]), weights["fc.weight"]
    except Exception as error:  # load_state_dict raises many types; each means other weights
        raise RequestError(f"{path} {mismatch(error, what)}") from error
