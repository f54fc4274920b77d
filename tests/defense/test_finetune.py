"""Fine-tuning: the ordinary loss by hand, on a copy."""

from copy import deepcopy

import torch
import toys
from torch import Tensor, nn

from bdiff.data.base import to_float
from bdiff.defense.removal.finetune import Finetune
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.denoiser import Suspect

SHAPE = (1, toys.SIZE, toys.SIZE)


def test_a_copy_is_trained_by_the_ordinary_loss():
    suspect = Suspect(toys.unet(), toys.schedule(), SHAPE)
    before, images, seen = deepcopy(suspect.network.state_dict()), toys.images(), []
    batch = Batch(images.take(torch.arange(6)), torch.arange(6), slice(0, 6), 6)

    def train(net: nn.Module, loss: Loss) -> nn.Module:
        torch.manual_seed(3)
        seen.append(loss(net, batch))
        seen[0].backward()
        with torch.no_grad():
            for weight in net.parameters():
                weight -= weight.grad
        return net

    repaired = Finetune().remove(suspect, images, None, train)

    torch.manual_seed(3)
    t = torch.randint(len(suspect.schedule), (6,))
    eps, x = torch.randn(6, *SHAPE), to_float(batch.pixels)
    abar = suspect.schedule.abar[t].view(-1, 1, 1, 1)
    x_t: Tensor = abar.sqrt() * x + (1 - abar).sqrt() * eps
    torch.testing.assert_close(seen[0].detach(), (suspect.network(x_t, t).sample - eps).square().mean())
    assert all(torch.equal(before[name], value) for name, value in suspect.network.state_dict().items())
    assert any(not torch.equal(before[name], value) for name, value in repaired.network.state_dict().items())
