"""The reference images of the Fréchet distance."""

from collections.abc import Callable

import numpy as np
import torch

from bdiff.common.errors import RequestError
from bdiff.data.base import Images, StreamedImages, TensorImages


def reference_images(images: Images, split: str | None, load: Callable[[str], Images]) -> Images:
    """Return the images of `split`, loaded by `load`; `images` themselves if they are of that split.

    So they are for data without splits, such as a plain folder, where every split is the whole dataset. Raises
    RequestError if the split is not available.
    """
    if split in (None, images.split):
        return images
    assert split is not None
    try:
        others = load(split)
    except RequestError as problem:
        raise RequestError(
            f"metric.fid.protocol takes its reference from the split {split}, which is not available ({problem}): "
            "choose another, or set metric.fid.reference=<file.npz> to statistics"
        ) from problem
    return images if same(images, others) else others


def same(one: Images, other: Images) -> bool:
    """Return whether two sets have the same pictures in the same order."""
    if one.shape != other.shape or len(one) != len(other):
        return False
    if isinstance(one, TensorImages) and isinstance(other, TensorImages):
        return torch.equal(one.pixels, other.pixels)
    if isinstance(one, StreamedImages) and isinstance(other, StreamedImages):
        return one.source.listing == other.source.listing and np.array_equal(one.rows, other.rows)
    return False
