"""Any classifier of timm (PyTorch Image Models, Wightman 2019), an optional dependency."""

from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bdiff.classifier.base import Classifier
from bdiff.classifier.weights import load_weights
from bdiff.common.errors import RequestError
from bdiff.config.rules import at_least


class Timm(Classifier):
    """A model by its name in timm; images are resized to `size` px and normalised as in its training.

    Args:
        channels: of the images; grey ones are shown to the model as RGB.
        classes: how many labels there are; pretrained weights with other labels lose their last layer.
        name: of the model in timm, e.g. "resnet18.a1_in1k", or "hf_hub:<owner>/<model>".
        pretrained: whether its weights are fetched from the hub.
        path: a file with a state dict of timm's model for these classes.
        size: px; None for the model's training size.

    Raises RequestError if timm, the model or its weights are not available.
    """

    body: Any  # has more methods than nn.Module
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int,
        classes: int,
        name: Annotated[str, "name of the model in timm"],
        pretrained: Annotated[bool, "fetch the weights that go with the name"],
        path: Annotated[str | None, "a file with a state dict of timm's model for the data's classes"],
        size: Annotated[int | None, at_least(1), "px that images are resized to; null: the model's training size"],
    ):
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise RequestError(f"classifier.model.name={name} needs timm: pip install 'bdiff[classifiers]'") from error
        try:
            self.body = timm.create_model(name, pretrained=pretrained, num_classes=classes)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            way_out = (
                "go online, or give its state dict: classifier.model.path=<file> classifier.model.pretrained=false"
            )
            raise RequestError(
                f"classifier.model.name={name} cannot be loaded from timm ({reason}): {way_out}"
            ) from error
        if path is not None:
            load_weights(self.body, path, "classifier.model.path")
        head = self.body.get_classifier()
        if not isinstance(head, nn.Linear):
            raise RequestError(f"classifier.model.name={name} does not end in a linear layer: choose a model that does")
        self.head, self.num_features = head, head.in_features
        self.body.reset_classifier(0)
        trained = timm.data.resolve_model_data_config(self.body)
        self.size = size or trained["input_size"][-1]
        self.register_buffer("mean", torch.tensor(trained["mean"]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(trained["std"]).view(-1, 1, 1), persistent=False)
        self.channels = channels

    def features(self, x: Tensor) -> Tensor:
        """Return the (B, num_features) features."""
        assert x.shape[1] == self.channels, (x.shape, self.channels)
        if x.shape[-1] != self.size:
            x = interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.body(((x.expand(-1, 3, -1, -1) + 1) / 2 - self.mean) / self.std)
