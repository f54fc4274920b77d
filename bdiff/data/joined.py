"""One set of images behind another, for an attack that also shows images of other data."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bdiff.data.base import Images, TensorImages
from bdiff.store.artifacts import digest


@dataclass(frozen=True, eq=False, kw_only=True)
class Joined(Images):
    """The images of two sets, of which at least one is not held in memory."""

    first: Images
    second: Images

    def take(self, rows: Tensor) -> Tensor:
        rows = rows.cpu()
        late = rows >= len(self.first)
        pixels = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        pixels[~late] = self.first.take(rows[~late]).cpu()
        pixels[late] = self.second.take(rows[late] - len(self.first)).cpu()
        return pixels

    def subset(self, rows: Tensor) -> "Joined":
        rows = rows.cpu()
        late = rows >= len(self.first)
        assert bool((late.diff() >= 0).all()), "rows of the first set come first"
        first, second = self.first.subset(rows[~late]), self.second.subset(rows[late] - len(self.first))
        return replace(self, labels=self.labels[rows], first=first, second=second)


def joined(first: Images, second: Images | None) -> Images:
    """Return `first` with the images of `second` behind its own, as further classes; `first` itself for None.

    It has the first's name, split and flip. In memory if both are.
    """
    if second is None:
        return first
    assert first.shape == second.shape, (first.shape, second.shape)
    labels = torch.cat([first.labels, len(first.classes) + second.labels])
    classes = first.classes + second.classes
    fingerprint = digest({"first": first.fingerprint, "second": second.fingerprint})
    if isinstance(first, TensorImages) and isinstance(second, TensorImages):
        pixels = torch.cat([first.pixels, second.pixels.to(first.device)])
        return replace(first, labels=labels, classes=classes, fingerprint=fingerprint, pixels=pixels)
    return Joined(
        name=first.name,
        split=first.split,
        classes=classes,
        labels=labels,
        shape=first.shape,
        flip=first.flip,
        fingerprint=fingerprint,
        first=first,
        second=second,
    )


def of_class(images: Images, number: int) -> Images:
    """Return the images of one class, as data that have no other."""
    name = images.classes[number]
    part = images.subset((images.labels == number).nonzero().flatten())
    fingerprint = digest({"of": images.fingerprint, "class": name})
    return replace(part, classes=(name,), labels=torch.zeros_like(part.labels), fingerprint=fingerprint)
