"""How often a model shows the target unasked, beside the clean model and the images that it is trained on."""

from collections.abc import Callable
from typing import Any, NamedTuple

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


def leaks(
    stages: Stages,
    samples: Stage,
    clean: Clean | None,
    images: Images | None,
    hits: Callable[[Tensor], Tensor],  # of the target among uint8 images (B,C,H,W), (B,) bool
    stated: dict[str, Any],  # of such hits, for the protocol
    excess: bool = False,  # whether images may be hits without any backdoor, as where the target is a class
) -> tuple[MetricResult, dict[str, float]]:
    """Return `false_trigger` of clean samples, and beside it that of `clean` and `data`, named so, where given.

    With `excess` there is `false_trigger_excess` too: how far it is above that of `clean`, or without one of `data`. Of
    many images `MOST` are drawn at random, the same each time.
    """

    def untriggered(stage: Stage) -> MetricResult:
        pixels = shards(stage.folder / "shards", "clean")
        return false_trigger((to_device(batch, stages.device) for batch in pixels), hits)

    values, facts = untriggered(samples)
    facts = stated | facts | {"of": "clean samples"}
    beside: dict[str, float] = {}
    if clean:
        beside |= {f"clean/{name}": value for name, value in untriggered(clean.samples).values.items()}
        facts["clean_model"] = clean.model
    if images is not None:
        rows = torch.randperm(len(images), generator=generator("base rate"))[:MOST].sort().values
        shown = batches(images, rows.split(BATCH), stages.device, stages.loop.workers)
        beside["data/false_trigger"] = false_trigger(shown, hits).values["false_trigger"]
        facts["data"] = f"{len(rows)} of the {len(images)} training images, {images.name} {images.split}"
    known = [who for who in ("clean", "data") if f"{who}/false_trigger" in beside]
    if excess and known:
        values["false_trigger_excess"] = values["false_trigger"] - beside[f"{known[0]}/false_trigger"]
        facts["excess_over"] = {"clean": "the clean model's", "data": "the training images'"}[known[0]]
    return MetricResult(values, facts), beside
