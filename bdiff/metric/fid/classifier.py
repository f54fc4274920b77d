"""The features of the run's own classifier, for data and machines without Inception weights."""

from typing import Any

from torch import Tensor

from bdiff.classifier.base import Classifier
from bdiff.data.base import to_float
from bdiff.metric.fid.base import Features
from bdiff.metric.fid.protocol import Distance


class ClassifierFeatures(Features):
    """The activations before the classifier's last layer. Its distance is called `fid_classifier`, never `fid`.

    Args:
        classifier: trained on the run's data.
        facts: the classifier's key and accuracy, for the protocol.
    """

    suffix = "_classifier"
    settings = Distance

    def __init__(self, classifier: Classifier, facts: dict[str, Any]):
        super().__init__()
        self.classifier, self.facts = classifier, facts
        self.num_features = classifier.num_features

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the (B, num_features) activations of uint8 images."""
        return self.classifier.features(to_float(pixels))

    def logits(self, activations: Tensor) -> Tensor:
        """Return the (B, classes) logits."""
        return self.classifier.head(activations)

    def identity(self) -> dict[str, Any]:
        """Return the extractor's name, key and accuracy."""
        return {"extractor": type(self.classifier).__name__, "resize": "none", **self.facts}
