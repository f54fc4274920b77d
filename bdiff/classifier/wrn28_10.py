"""Wide residual networks for small images (Zagoruyko & Komodakis 2016, arXiv 1605.07146), without dropout."""

from typing import Annotated

from torch import Tensor, nn
from torch.nn.functional import relu

from bdiff.classifier.base import Classifier
from bdiff.config.rules import at_least, multiple_of


class WideResNet(Classifier):
    """WRN-depth-width: three groups of (depth - 4) / 6 blocks, the second and the third with stride 2.

    WRN-28-10 has 36.5 M weights and 640 features.

    Args:
        channels: of the images.
        classes: how many labels there are.
        depth: number of convolutions, 6 n + 4.
        width: the groups have 16, 32 and 64 times as many channels.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        depth: Annotated[int, multiple_of(6, plus=4), "convolutions"],
        width: Annotated[int, at_least(1), "times the channels of a thin ResNet"],
    ):
        super().__init__()
        blocks = (depth - 4) // 6
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.num_features = widths[-1]
        self.body = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            *(
                Block(widths[group] if number == 0 else after, after, stride=2 if group and number == 0 else 1)
                for group, after in enumerate(widths[1:])
                for number in range(blocks)
            ),
            nn.BatchNorm2d(self.num_features),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.num_features, classes)
        for part in self.body.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Return the (B, 64 * width) features."""
        return self.body(x)


class Block(nn.Module):
    """Two 3x3 convolutions, each after normalisation and ReLU; a 1x1 shortcut where the shape changes."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.past = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        active = relu(self.norm1(x))
        kept = x if self.past is None else self.past(active)
        return kept + self.conv2(relu(self.norm2(self.conv1(active))))
