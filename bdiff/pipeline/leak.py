"""What a model's `false_trigger` is held against: the clean model's, and that of the images it is trained on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bdiff.common.device import to_device
from bdiff.common.seeds import generator
from bdiff.data.base import Images, batches
from bdiff.diffusion.sampling import shards
from bdiff.metric.base import MetricResult
from bdiff.metric.target import false_trigger
from bdiff.pipeline.stages import Stages
from bdiff.store.artifacts import Stage

BATCH = 256  # images
MOST = 10_000  # images of the data: the standard error is then at most half a point


class Clean(NamedTuple):
    """The samples that a clean model makes of the suspect's noise, and which model that is, in words."""

    samples: Stage
    model: str
    same: bool  # whether it has the suspect's weights


def yardsticks(
    stages: Stages,
    clean: Clean | None,
    images: Images | None,
    hits: Callable[[Tensor], Tensor],  # of the target among uint8 images (B,C,H,W), (B,) bool
) -> MetricResult:
    """Return `clean/false_trigger` of the clean model's samples and `data/false_trigger` of images, where given.

    Of many images `MOST` are drawn at random, the same each time.
    """
    values: dict[str, float] = {}
    facts: dict[str, str] = {}
    if clean:
        pixels = (to_device(batch, stages.device) for batch in shards(clean.samples.folder / "shards", "clean"))
        found = false_trigger(pixels, hits)
        values |= {f"clean/{name}": value for name, value in found.items()}
        facts["clean_model"] = clean.model
    if images is not None:
        rows = torch.randperm(len(images), generator=generator("base rate"))[:MOST].sort().values
        shown = batches(images, rows.split(BATCH), stages.device, stages.loop.workers)
        values["data/false_trigger"] = false_trigger(shown, hits)["false_trigger"]
        facts["data"] = f"{len(rows)} of the {len(images)} training images, {images.name} {images.split}"
    return MetricResult(values, facts)
