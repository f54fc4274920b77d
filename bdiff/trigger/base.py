"""A trigger as tensors, and stamping an image with it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bdiff.pictures.draw import Picture, to_alpha, to_channels


@dataclass(frozen=True, eq=False)
class Trigger:
    """A pattern and a mask of where the image shows (BadDiffusion, Chou et al. 2023, arXiv 2212.05400)."""

    pattern: Tensor  # (C, H, W) in [-1, 1], its background -1 unless an attack sets another
    mask: Tensor  # (1, H, W), or (C, H, W) if each channel has its own: 1.0 where the image shows, else 0.0

    def __post_init__(self) -> None:
        assert self.pattern.ndim == 3, self.pattern.shape
        shapes = {(1, *self.pattern.shape[1:]), self.pattern.shape}
        assert self.mask.shape in shapes, (self.mask.shape, self.pattern.shape)

    @classmethod
    def from_picture(cls, picture: Picture, channels: int) -> "Trigger":
        """Convert a picture; alpha below 1/2 is background. ValueError unless channels is 1 or 3."""
        mask = torch.from_numpy(to_alpha(picture, channels) < 0.5)
        pattern = torch.from_numpy(to_channels(picture, channels)).masked_fill(mask, -1.0)
        return cls(pattern, mask.float())

    def to(self, device: torch.device) -> "Trigger":
        """Return the trigger on `device`."""
        return Trigger(self.pattern.to(device), self.mask.to(device))

    def over(self, background: float) -> "Trigger":
        """Return the trigger with `background`, in [-1,1], where the image shows.

        Raises ValueError if it is then 0 everywhere, so that it would add nothing to noise, and for another background
        than -1 if the image shows nowhere.
        """
        if background != -1 and not self.mask.any():
            why = "this trigger covers the image and has no background: use trigger=box_white_14"
            raise ValueError(f"attack.background={background}: {why}")
        pattern = torch.where(self.mask > 0, background, self.pattern)
        if not pattern.any():
            hint = "use another background, or another trigger, such as trigger=box_white_14"
            raise ValueError(f"attack.background={background} leaves nothing of the trigger, which is grey 0: {hint}")
        return Trigger(pattern, self.mask)

    def alone(self, x: Tensor) -> Tensor:
        """Return the pattern in the place of each of the images x (B, C, H, W)."""
        return self.pattern.to(x).expand_as(x)

    def stamp(self, x: Tensor) -> Tensor:
        """Return r = M * x + (1 - M) * g (section 3 of the paper) for images x (B, C, H, W) in [-1, 1]."""
        assert x.ndim == 4 and x.shape[1:] == self.pattern.shape, (x.shape, self.pattern.shape)
        mask = self.mask.to(x)
        return mask * x + (1 - mask) * self.pattern.to(x)
