"""ResNet-18 (He et al. 2016, arXiv 1512.03385) in its CIFAR form: without downsampling before the first block."""

from torch import Tensor, nn
from torchvision.models import resnet18

from bdiff.classifier.base import Classifier


class ResNet18(Classifier):
    """torchvision's ResNet-18 with a 3x3 stem of stride 1 and no max-pool: 11.2 M weights, 512 features.

    Args:
        channels: of the images.
        classes: how many labels there are.
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.body = resnet18(num_classes=classes)
        self.body.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.body.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.body.maxpool = nn.Identity()
        self.num_features = self.body.fc.in_features
        self.head, self.body.fc = self.body.fc, nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """Return the (B,512) features."""
        return self.body(x)
