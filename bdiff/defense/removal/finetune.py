"""Fine-tuning on clean data, the plainest of repairs: backdoors are hoped to be forgotten (Liu et al. 2018)."""

from copy import deepcopy

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bdiff.data.base import Images
from bdiff.defense.base import Repair, Suspect, Train
from bdiff.defense.removal.shift import noised
from bdiff.diffusion.training import Batch


class Finetune(Repair):
    """Trains a copy of the suspect on clean images by the ordinary DDPM loss (Ho et al. 2020, eq. 14)."""

    def repair(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> nn.Module:
        """Return the fine-tuned copy; see `Repair.repair`. The trigger is not used."""

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            x_t, t, eps = noised(suspect.schedule, batch, images.flip)
            return mse_loss(net(x_t, t, return_dict=False)[0].float(), eps)

        return train(deepcopy(suspect.unet).requires_grad_(True), loss)
