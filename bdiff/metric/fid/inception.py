"""pytorch-fid's InceptionV3 with the 2015-12-05 weights: what published FIDs are taken over."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from bdiff.errors import RequestError
from bdiff.metric.fid.base import Features

WAYS_OUT = (
    "  give the file (metric.fid.weights=<file>), go online, or measure with the run's own classifier "
    "(metric/fid=classifier)"
)


class InceptionFeatures(Features):
    """The 2,048 activations of the last pooling; images are resized to 299 px bilinearly, grey ones repeated.

    Args:
        weights: file of pytorch-fid's weights; None looks in torch's hub cache and downloads into it.
        sha256: the first digits of the file's hash.

    Raises:
        RequestError: if the weights cannot be had or are others than asked for.
    """

    metric = "fid"
    num_features = 2048

    def __init__(self, weights: str | None, sha256: str):
        super().__init__()
        path = Path(weights).expanduser() if weights else download()
        if not path.is_file():
            raise RequestError(f"metric.fid.weights={weights} does not exist", WAYS_OUT)
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if not self.sha256.startswith(sha256):
            raise RequestError(
                f"{path} has sha256 {self.sha256[:8]}..., not {sha256}...: it is not the file published FIDs use "
                f"(metric.fid.sha256={self.sha256[:8]} accepts it, for numbers that compare with nothing else)"
            )
        self.network = build(path)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, 2048) activations of uint8 images (B,C,H,W)."""
        x = pixels.float() / 255
        return self.network(x.expand(-1, 3, -1, -1))[0].flatten(1)

    def protocol(self) -> dict[str, Any]:
        """Return the extractor's name, the weights' hash and the resize mode."""
        return {
            "extractor": "pytorch-fid InceptionV3, pool3",
            "sha256": self.sha256,
            "resize": "299 px, bilinear, by torch on [0,1]",
        }


def download() -> Path:
    """Return pytorch-fid's weights in torch's hub cache, fetching them if need be."""
    from pytorch_fid.inception import FID_WEIGHTS_URL

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(FID_WEIGHTS_URL).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(path), progress=False)
        except (URLError, OSError) as error:
            raise RequestError(
                f"metric/fid=inception needs pytorch-fid's Inception weights: not at {path}, and the download failed "
                f"({error})",
                WAYS_OUT,
            ) from error
    return path


def build(path: Path) -> torch.nn.Module:
    """Return pytorch-fid's network with the weights in `path`.

    pytorch-fid reads them from torch's hub cache only, so it is shown a cache that holds just this file.
    """
    from pytorch_fid.inception import FID_WEIGHTS_URL, InceptionV3

    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as scratch:
        shown = Path(scratch) / "checkpoints" / Path(FID_WEIGHTS_URL).name
        shown.parent.mkdir()
        try:
            shown.symlink_to(path.resolve())
        except OSError:  # a file system without links
            shutil.copy(path, shown)
        torch.hub.set_dir(scratch)
        try:
            return InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
        except Exception as error:  # torch.load and load_state_dict raise many kinds; each means a damaged file
            raise RequestError(f"{path} does not hold pytorch-fid's Inception weights ({error})") from error
        finally:
            torch.hub.set_dir(before)
