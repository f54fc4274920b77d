"""Diff-Cleanse's removal (Hao et al. 2024, arXiv 2407.21316; after the authors' code): prune what the trigger works by.

A channel's importance is the sum over its weights of |w dL/dw|, Taylor pruning's (Molchanov et al. 2017, arXiv
1611.06440), L being the DDPM loss in the last tenth of the timesteps, relative to the mean of its convolution. It is
taken on noised clean images and, with the inverted trigger, on x_t = sqrt(abar_t) x + sqrt(1 - abar_t) (eps + tau),
whose noise is eps all the same: a backdoored model's answer is far from it. The same fraction of every convolution but
conv_out is pruned, the channels of the largest importance. Then the copy is fine-tuned on images that the suspect
generates, so that the defender needs none: DDPM loss + MSE to the suspect's answers.

Where we differ: the authors cut channels out, of all layers that a residual stream ties together; here a channel gives
zero, so that the network stays a stock UNet. Their code adds both importances, although a comment in it has their
difference in mind: `clean_importance` is the weight of the clean one, 1 in their code.
"""

from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bdiff.common.seeds import generator
from bdiff.config.rules import at_least, positive_fraction
from bdiff.data.base import Images, TensorImages, to_uint8
from bdiff.defense.base import Removal, Suspect, Train
from bdiff.defense.removal.pruning import BATCH, convolutions, drawn, largest, pruned
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.denoiser import EPSILON, Denoiser, eps_of, target_of
from bdiff.diffusion.objective import Draw, clean, shown

WINDOW = 0.1  # fraction of the schedule, at its end, that importance is taken over (authors: 900 to 999 of 1000)


class DiffCleanseRemoval(Removal):
    """Prunes the channels that triggered inputs depend on most, and fine-tunes the others on generated images.

    Args:
        share: fraction of each convolution's channels that are pruned, rounded up, in [0,1].
        clean_importance: weight of a channel's importance on clean inputs beside that on triggered ones.
        keep_weight: weight, at least 0, of the loss that ties the copy to the suspect on clean inputs (authors: 1).
        count: noised images of either kind that importance is taken over.
        generated: images that the suspect generates for fine-tuning; 0: the defender's clean images are used.
        generated_steps: DDIM's, from noise to such an image.
    """

    checks = ("bdiff.defense.check.trigger_problems", "bdiff.defense.check.generated_problems")

    def __init__(
        self,
        share: Annotated[float, positive_fraction, "fraction of each convolution's channels that are pruned"],
        clean_importance: Annotated[float, "weight of importance on clean inputs beside that on triggered ones"],
        keep_weight: Annotated[float, at_least(0), "weight of the loss that preserves predictions on clean inputs"],
        count: Annotated[int, at_least(1), "noised images of either kind that importance is taken over"],
        generated: Annotated[int, at_least(0), "images generated for fine-tuning; 0: the clean images are used"],
        generated_steps: Annotated[int, at_least(1), "DDIM steps from noise to a generated image"],
    ):
        self.share, self.clean_importance, self.keep_weight = share, clean_importance, keep_weight
        self.count, self.generated, self.generated_steps = count, generated, generated_steps
        self.row_images = (1, int(keep_weight != 0))

    def version(self, prediction: str) -> int:
        """See `Removal.version`: until 0.2.0 every loss was in terms of noise."""
        return 1 if prediction == EPSILON else 2

    def remove(self, suspect: Suspect, images: Images, trigger: Tensor | None, train: Train) -> Denoiser:
        """Return the pruned and fine-tuned copy; see `Removal.remove`. Raises ValueError without a trigger."""
        if trigger is None:
            raise ValueError("this removal needs an inverted trigger: run a detection first")
        trigger = trigger.to(suspect.device)
        kinds = [importance(suspect, images, shift, self.count) for shift in (trigger, torch.zeros_like(trigger))]
        scores = [bad + self.clean_importance * good for bad, good in zip(*kinds, strict=True)]
        network = pruned(suspect.network, largest(scores, self.share))
        copy = Denoiser(network, suspect.schedule, suspect.shape, prediction=suspect.prediction)
        shown_images = generate(suspect, images, self.generated, self.generated_steps) if self.generated else images
        train(copy, keeping_loss(suspect, images.flip, self.keep_weight), shown_images)
        return copy


def importance(suspect: Suspect, images: Images, shift: Tensor, count: int) -> list[Tensor]:
    """Return each convolution's importance (channels,) where the noise is shifted by (C,H,W), relative to its mean.

    Over `count` images noised at timesteps of the window; the same in every process.
    """
    net = suspect.trainable().eval()
    weights = [conv.weight for conv in convolutions(net.network)]
    sums = [torch.zeros_like(weight) for weight in weights]
    length = len(suspect.schedule)
    first = length - max(1, round(WINDOW * length))
    for batch in drawn(images, count, suspect.device, "diff-cleanse"):
        draw = Draw(batch, length - first)
        x, t, eps = shown(batch, None, images.flip).x, first + draw.t(), draw.eps()
        x_t = suspect.schedule.add_noise(x, eps + shift, t)
        loss = mse_loss(eps_of(net.prediction, net.schedule, x_t, net(x_t, t), t), eps)
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient * batch.size / count
    found = [(weight.detach() * total).abs().flatten(1).sum(1) for weight, total in zip(weights, sums, strict=True)]
    return [score / score.mean().clamp(min=torch.finfo(score.dtype).tiny) for score in found]


def keeping_loss(suspect: Suspect, flip: bool, keep_weight: float) -> Loss:
    """Return MSE[eps_th(x_t, t), eps] + keep_weight MSE[eps_th(x_t, t), eps_0(x_t, t)], eps_0 being the suspect.

    Both are in the network's own terms, as in training: in terms of noise, those of a network that predicts x0 would
    hang on the first few timesteps.
    """
    schedule = suspect.schedule

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x_t, t, eps = clean(schedule, shown(batch, None, flip), Draw(batch, len(schedule)))
        predicted, own = net(x_t, t), partial(target_of, suspect.prediction, schedule, x_t)
        if not keep_weight:
            return mse_loss(predicted, own(eps, t))
        with torch.no_grad():
            reference = own(suspect.eps(x_t, t), t)
        return mse_loss(predicted, own(eps, t)) + keep_weight * mse_loss(predicted, reference)

    return loss


@torch.no_grad()
def generate(suspect: Suspect, images: Images, count: int, steps: int) -> TensorImages:
    """Return `count` images that the suspect generates from noise by DDIM steps from the last timestep on.

    They are of the form of `images`, and the same in every process. ValueError for more steps than timesteps.
    """
    length = len(suspect.schedule)
    if not 1 <= steps <= length:
        raise ValueError(f"generated_steps={steps} must be 1 to {length}, the schedule's timesteps")
    draws, made = generator("diff-cleanse", "generated"), []
    for start in range(0, count, BATCH):
        x = suspect.noise(min(BATCH, count - start), draws)
        made.append(to_uint8(suspect.schedule.walk(x, suspect.eps, suspect.schedule.path(steps))))
    return TensorImages(
        name=f"generated like {images.name}",
        split="all",
        classes=images.classes,
        labels=torch.zeros(count, dtype=torch.int64),
        shape=images.shape,
        flip=images.flip,
        fingerprint=images.fingerprint,
        pixels=torch.cat(made),
    )
