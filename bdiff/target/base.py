"""A target picture as the tensor that a backdoored model should generate."""

import torch
from torch import Tensor

from bdiff.pictures.draw import Picture, to_alpha, to_channels

FLOOR = -0.4  # 0.3 of the way from -1 to 1 (GREY_BG_RATIO in the authors' code)


def to_target(picture: Picture, channels: int) -> Tensor:
    """Return the picture over grey -0.4, with all lower values raised to it: (C, H, W) in [-0.4, 1].

    As BadDiffusion's code does (Chou et al. 2023, arXiv 2212.05400). ValueError unless channels is 1 or 3.
    """
    alpha = torch.from_numpy(to_alpha(picture, channels))
    colours = torch.from_numpy(to_channels(picture, channels))
    return (alpha * colours + (1 - alpha) * FLOOR).clamp(min=FLOOR)
