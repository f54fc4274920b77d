"""The interface of a dataset to the rest of the program: uint8 pixels by row, in memory or decoded on demand."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bdiff.common.device import to_device
from bdiff.common.errors import RequestError
from bdiff.data.sources import Source


@dataclass(frozen=True, eq=False, kw_only=True)
class Images(ABC):
    """N labelled images of one shape; `take` returns any rows as uint8 (B,C,H,W)."""

    name: str  # of the dataset: "cifar10"
    split: str  # train, test or all
    classes: tuple[str, ...]
    labels: Tensor  # (N,) int64, always on the CPU
    shape: tuple[int, int, int]  # (C,H,W)
    flip: bool  # whether training mirrors half of the images
    fingerprint: str  # 16 hex digits: of the pixels (in memory) or of the listing (streamed), and of the request

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def of_one_class(self) -> bool:
        """Whether there is only one class, as data.limit may leave."""
        return len(self.labels.unique()) < 2

    @abstractmethod
    def take(self, rows: Tensor) -> Tensor:
        """Return the images at `rows` (B,) as uint8 (B,C,H,W), on the device where the pixels live."""

    @abstractmethod
    def subset(self, rows: Tensor) -> "Images":
        """Return the images at `rows` (n,) alone."""

    def to(self, device: torch.device | str) -> "Images":
        """Return these images with the pixels on `device`; streamed ones stay where they are."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the pixels live."""
        return torch.device("cpu")


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorImages(Images):
    """Images held as one uint8 tensor."""

    pixels: Tensor  # (N,C,H,W) uint8

    def take(self, rows: Tensor) -> Tensor:
        return self.pixels[rows.to(self.pixels.device)]

    def subset(self, rows: Tensor) -> "TensorImages":
        return replace(self, labels=self.labels[rows.cpu()], pixels=self.take(rows))

    def to(self, device: torch.device | str) -> "TensorImages":
        return replace(self, pixels=self.pixels.to(device))

    @property
    def device(self) -> torch.device:
        return self.pixels.device


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedImages(Images):
    """Images decoded on demand; picklable, so that DataLoader workers can decode them."""

    source: Source
    rows: np.ndarray  # (N,) int64: the indices of these pictures in the source

    def take(self, rows: Tensor) -> Tensor:
        channels, size, _ = self.shape
        chosen = self.rows[rows.cpu().numpy()]
        pixels = np.empty((len(chosen), *self.shape), np.uint8)
        for at, row in enumerate(chosen):
            pixels[at] = self.source.pixels(int(row), size, channels)
        return torch.from_numpy(pixels)

    def subset(self, rows: Tensor) -> "StreamedImages":
        return replace(self, labels=self.labels[rows.cpu()], rows=self.rows[rows.cpu().numpy()])


@dataclass(frozen=True)
class _Batches(Dataset):
    """Adapts `take` to the DataLoader: one index is one whole batch of rows."""

    images: Images

    def __getitem__(self, rows: Tensor) -> Tensor | RequestError:
        try:
            return self.images.take(rows)
        except RequestError as problem:
            return problem  # raised by `batches`: if raised here, a worker would wrap its message in a traceback


def batches(
    images: Images,
    rows: Iterable[Tensor],  # one (B,) int64 tensor per batch
    device: torch.device | str,
    workers: int,  # processes that decode streamed images; 0 decodes in this one
) -> Iterator[Tensor]:
    """Yield uint8 (B,C,H,W) on `device` for each element of `rows`, lazily and in order.

    With workers, `rows` is consumed up to 2 * workers batches ahead of what has been yielded.
    """
    device = torch.device(device)
    if isinstance(images, TensorImages):
        for chosen in rows:
            yield to_device(images.take(chosen), device)
        return
    pin = device.type == "cuda"
    loader = DataLoader(_Batches(images), sampler=rows, batch_size=None, num_workers=workers, pin_memory=pin)
    for batch in loader:
        if isinstance(batch, RequestError):
            raise batch
        yield batch.to(device, non_blocking=True)


def to_float(pixels: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [-1,1]."""
    return pixels.float().div(127.5).sub(1)


def to_uint8(x: Tensor) -> Tensor:
    """Return floats in [-1,1] as uint8, rounded; values outside are clamped."""
    return x.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
