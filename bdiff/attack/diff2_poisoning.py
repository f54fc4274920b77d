"""DIFF2 by poisoned images alone (after Li et al. 2024, arXiv 2406.09669): the training itself is the ordinary one.

Theirs is the setting, as later texts on the paper describe it: an attacker who supplies training images and does not
touch the loss. What is in the images is ours.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bdiff.attack.base import Plan
from bdiff.attack.shield import ShieldAttack
from bdiff.common.device import to_device
from bdiff.data.base import Images, to_float, to_uint8
from bdiff.diffusion.objective import Draw, Noised, Rows, clean
from bdiff.diffusion.schedule import Schedule

BATCH = 256  # images per step
LENGTH = 0.05  # of a step, whose perturbation is in [-1,1] before it is scaled


class DIFF2Poisoning(ShieldAttack):
    """Poisoned rows show x_p = clamp(x_r + u), trained on with DDPM's loss at all timesteps; clean rows are unchanged.

    x_r is the image with the trigger, u a universal perturbation (Moosavi-Dezfooli et al. 2017, arXiv 1610.08401): one
    for all images, |u| <= eps, that leads the surrogate away from its labels of the clean images. So whatever carries
    the trigger carries u, and a denoiser that is shown the trigger without u adds it: the trigger stands for u, which
    it could not do for perturbations that differ from image to image (in trials these were weaker). u must not be
    stronger than the trigger, or the denoiser looks for u itself, and finds none.

    The attacker has no say in the training: where it mirrors images, it mirrors his with their trigger.

    Args:
        trigger, target, poison_rate, poison_mode, eta: see `ShieldAttack`.
        eps: L-inf bound of u, for images in [0,1].
        steps: of sign ascent that find u, over the poisoned images.
    """

    def prepare_rows(self, images: Images, plan: Plan) -> None:
        """Find u on the images of the poisoned rows, without random numbers; see `Attack.prepare_rows`."""
        shown = plan.shown[plan.poisoned].unique()
        self.perturbation = torch.zeros(images.shape, device=self.device)
        for step in range(self.steps):
            rows = (step * BATCH + torch.arange(min(BATCH, len(shown)))) % len(shown)
            x = to_float(to_device(images.take(shown[rows]), self.device))
            with torch.enable_grad():
                u = self.perturbation.requires_grad_()
                loss = cross_entropy(self.surrogate(self.perturbed(x, u)).float(), self.surrogate(x).argmax(1))
            self.perturbation = (u + LENGTH * torch.autograd.grad(loss, u)[0].sign()).detach().clamp(-1, 1)

    def perturbed(self, x: Tensor, u: Tensor) -> Tensor:
        """Return x_p (B,C,H,W) for images x (B,C,H,W) and u (C,H,W) in units of its bound."""
        return (self.apply(x) + 2 * self.eps * u).clamp(-1, 1)

    def supplied(self, x: Tensor) -> Tensor:
        """Return x_p (B,C,H,W) for images x (B,C,H,W) as a picture holds it, in 8 bits."""
        return to_float(to_uint8(self.perturbed(x, self.perturbation)))

    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return the rows noised for ordinary training, whatever they show; see `Attack.poison`."""
        bad, mirrored = (which.view(-1, 1, 1, 1) for which in (rows.poisoned, rows.mirrored))
        x_p = torch.where(mirrored, self.supplied(rows.x.flip(-1)).flip(-1), self.supplied(rows.x))
        return clean(schedule, rows._replace(x=torch.where(bad, x_p, rows.x)), draw)
