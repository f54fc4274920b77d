"""The objective of a classifier's training: cross-entropy under random flips and shifts."""

import torch
from torch import Tensor, nn

from bdiff.data.base import to_float
from bdiff.diffusion.batch import Batch, Loss, mirrored


def classification_loss(labels: Tensor, label_smoothing: float, flip: bool, padding: int) -> Loss:
    """Return cross-entropy with label smoothing, under random flips and shifts by up to `padding` px."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x = mirrored(to_float(batch.pixels), batch)[0] if flip else to_float(batch.pixels)
        if padding:
            x = shifted(x, batch, padding)
        return nn.functional.cross_entropy(net(x).float(), labels[batch.rows], label_smoothing=label_smoothing)

    return loss


def shifted(x: Tensor, batch: Batch, most: int) -> Tensor:
    """Shift every image by its own random offset of up to `most` px in each direction, edges repeated."""
    padded = nn.functional.pad(x, (most,) * 4, mode="replicate")
    offset = batch.draw(lambda shape, device: torch.randint(2 * most + 1, shape, device=device), 2)
    rows = offset[:, 0, None] + torch.arange(x.shape[2], device=x.device)
    cols = offset[:, 1, None] + torch.arange(x.shape[3], device=x.device)
    image = torch.arange(len(x), device=x.device)
    # (b,1,1) image x (b,H,1) rows x (b,1,W) cols puts the channel axis last.
    return padded[image[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
