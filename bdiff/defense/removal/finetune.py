"""Fine-tuning on clean data, the simplest removal, which may make the model forget its backdoor (Liu et al. 2018)."""

from torch import Tensor

from bdiff.data.base import Images
from bdiff.defense.base import Removal, Suspect, Train
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import clean, denoising_loss


class Finetune(Removal):
    """Trains a copy of the suspect on clean images by the ordinary DDPM loss (Ho et al. 2020, eq. 14)."""

    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return the fine-tuned copy; see `Removal.remove`. The trigger is not used."""
        copy = suspect.trainable()
        train(copy, denoising_loss(clean, copy.schedule, None, images.flip, copy.prediction))
        return copy
