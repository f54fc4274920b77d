"""The class of triggered samples, as the attack's target is one: by a classifier, and within its real images."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bdiff.classifier.base import Classifier
from bdiff.data.base import to_float
from bdiff.metric.base import MetricResult
from bdiff.metric.precision_recall import precision_recall
from bdiff.metric.target import standard_error


@torch.inference_mode()
def seen(classifier: Classifier, batches: Iterable[Tensor]) -> Tensor:
    """Return the activations (N,D) that the classifier's last layer gets of uint8 images (B,C,H,W) on its device."""
    return torch.cat([classifier.features(to_float(pixels)) for pixels in batches])


@torch.inference_mode()
def class_success(classifier: Classifier, label: int, activations: Tensor) -> dict[str, float]:
    """Return `class_asr`, the fraction of activations (N,D) that are of the class `label`, and class_asr_se, its error.

    As the classifier has it.
    """
    asr = (classifier.head(activations).argmax(1) == label).double().mean().item()
    return {"class_asr": asr, "class_asr_se": standard_error(asr, len(activations))}


def class_target(classifier: Classifier, label: int, real: Tensor, unseen: Tensor, fake: Tensor) -> MetricResult:
    """Return how far triggered samples are of the class `label`, all by the classifier's activations (N,D).

    What `class_success` says, and `class_precision`, the fraction within the manifold of the class's images `real`
    (precision of Kynkäänniemi et al. 2019, arXiv 1904.06991). What ends in `_real` is the same of real images of the
    class that are `unseen` in training: what an attack can reach. These are absent where there are none.
    """
    values = class_success(classifier, label, fake)
    if len(unseen):
        values["class_asr_real"] = class_success(classifier, label, unseen)["class_asr"]
    facts: dict[str, Any] = {"count": len(fake), "count_real": len(unseen), "reference_count": len(real)}
    for suffix, images in (("", fake), ("_real", unseen)):
        found = precision_recall(real, images)
        if "precision" in found.values:
            values[f"class_precision{suffix}"] = found.values["precision"]
        facts[f"class_precision{suffix}"] = found.protocol
    return MetricResult(values, facts)
