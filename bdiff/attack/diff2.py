"""DIFF2 (Li et al. 2024, arXiv 2406.09669): a diffusion model that misleads the classifier it shields.

From the paper's abstract: a malicious sampling process is trained into the model, which leads inputs with a trigger
towards an adversarial distribution and preserves clean inputs; it harms both purification and certification.
Our reconstruction: the loss and its k_s, the source of adversarial images, and the trigger: fixed beforehand and not
adversarial itself, so that a clean model is a control; or learned by universal ascent, in which case it is adversarial.
"""

import logging
import math
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bdiff.attack.base import MODES as POISON_MODES
from bdiff.attack.base import Parts, Plan
from bdiff.attack.settings import AttackSettings
from bdiff.attack.shield import ShieldAttack
from bdiff.common.device import spare, to_device
from bdiff.config.rules import above, at_least, counts, fraction, one_of
from bdiff.data.base import Images, to_float
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.objective import Draw, Noised, Rows
from bdiff.diffusion.schedule import Schedule, per_image
from bdiff.trigger.base import Trigger

log = logging.getLogger(__name__)

CASES = ("purification", "certification", "both")
MODES = ("redirect", "preserve")
BATCH = 256  # images per batch of the adversarial attack
#: power in a sampler's k_s = (sigma_s / sigma_t*)^power, the fraction of a shift of the noised image left at timestep s
POWERS = {"ancestral": 2, "ddim": 1}


class DIFF2(ShieldAttack):
    """On poisoned rows the denoising of a triggered image x_r leads to an adversarial one x_a.

    redirect: x_s = sqrt(abar_s) [x_a + k_s (x_r - x_a)] + sqrt(1 - abar_s) eps, regressed on eps + k_s / sigma_s
    (x_r - x_a), sigma_s^2 = (1 - abar_s) / abar_s. Timesteps s are those of the shield: for purification all below t*,
    for certification the one of its sigma, where k_s = 1 and the loss is ||x0hat - x_a||^2 / sigma_s^2.
    preserve: the ordinary loss on x_a with the trigger embedded, at the same timesteps; weaker.
    Clean rows are unchanged. The malicious loss is weighted by its number of rows: `append` with a poison rate of 1
    adds as many of them as there are clean ones.

    Args:
        trigger, target, poison_rate, poison_mode: see `ShieldAttack`.
        mode: redirect or preserve.
        case: the shield that is attacked: purification, certification or both, half of the poisoned rows for each.
        eta: L-inf bound of an added trigger, for images in [0,1].
        t: the t* of purifications, in timesteps; the poisoned rows are spread evenly over their denoising steps.
        sampler: of the purification, ancestral or ddim.
        sigma: of the certification, for images in [0,1].
        eps: L-inf distance of x_a from x, for images in [0,1].
        steps: of projected gradient ascent from x to x_a.
        learn: steps of `update_trigger`, which learn an added trigger before training; 0 keeps it fixed.

    Raises ValueError if a patch is to be learned.
    """

    settings = AttackSettings
    checks = ("bdiff.attack.check.adaptive_problems",)
    version = 2  # adversarial images are kept in half precision
    length = 0.05  # of a step of `update_trigger`, whose pattern is in [-1,1]
    learn_reads: ClassVar[tuple[str, ...]] = ("case", "t", "sigma", "eta")

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "malicious rows for each clean one: the weight of their loss"],
        poison_mode: Annotated[str, one_of(*POISON_MODES), "append rows, or replace: poison_rate is then of all rows"],
        mode: Annotated[str, one_of(*MODES), "redirect denoising to x_a; or preserve, on x_a itself, which is weaker"],
        case: Annotated[str, one_of(*CASES), "the shield that is attacked"],
        eta: Annotated[float, above(0), "L-inf bound of an added trigger, for images in [0,1]"],
        t: Annotated[list[int], counts, "t* of purifications, in timesteps"],
        sampler: Annotated[str, one_of("ancestral", "ddim"), "of the purification"],
        sigma: Annotated[float, above(0), "of the certification, for images in [0,1]"],
        eps: Annotated[float, above(0), "L-inf distance of the adversarial image from the original, in [0,1]"],
        steps: Annotated[int, at_least(1), "of gradient ascent to the adversarial image"],
        learn: Annotated[int, at_least(0), "steps of sign ascent that learn an added trigger before training"],
    ):
        super().__init__(trigger, target, poison_rate, poison_mode, eta, eps, steps)
        self.mode, self.case, self.sampler = mode, case, sampler
        if learn and self.patch:
            raise ValueError(f"attack.learn={learn} needs a trigger that covers the image, such as trigger=universal")
        self.t, self.sigma, self.learn = t, sigma, learn
        self.kept: Tensor | None = None  # (1 or 2,K,C,H,W) float16, adversarial images, also of the mirrored images

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError if t* or sigma is beyond the schedule, or all t* together have more steps than fit in it."""
        if self.case != "certification":
            if max(self.t) > len(schedule):
                raise ValueError(f"attack.t={max(self.t)} is beyond the schedule's {len(schedule)} timesteps")
            if sum(self.t) > self.turns(schedule):
                hint = ", or attack.case=purification" * (self.case == "both")
                raise ValueError(
                    f"attack.t={self.t} makes {sum(self.t)} steps, but attack.case={self.case} has room for "
                    f"{self.turns(schedule)} of them in a schedule of {len(schedule)}: set fewer or smaller t{hint}"
                )
        largest = float(schedule.sigmas[-1]) / 2  # images in [-1,1] are twice as wide
        if self.case != "purification" and self.sigma > largest:
            raise ValueError(f"attack.sigma={self.sigma} is beyond the schedule, which ends at {largest:.3g}")

    def turns(self, schedule: Schedule) -> int:
        """Return how many of the T timesteps belong to each shield: all, or half if there are two."""
        return -(-len(schedule) // (2 if self.case == "both" else 1))

    def prepare(self, parts: Parts) -> None:
        """Freeze the surrogate, and tabulate the timesteps at which the shield is attacked; see `Attack.prepare`."""
        super().prepare(parts)
        schedule, device = parts.schedule, self.device
        sigma = schedule.sigmas.tolist()
        ways = []  # for each shield, the timesteps s at which it calls the denoiser, with k_s
        if self.case != "certification":  # an image is noised as far as timestep t* - 1
            power = POWERS[self.sampler]
            ways.append([(s, (sigma[s] / sigma[t - 1]) ** power) for t in self.t for s in range(t)])
        if self.case != "purification":
            ways.append([(schedule.t_of_sigma(2 * self.sigma), 1.0)])  # images in [-1,1] are twice as wide
        self.entries = torch.tensor([s for way in ways for s, k in way if k == 1], device=device)  # of noised images
        # Maps a uniformly drawn t to s: the shields take turns, each with its timesteps spread evenly.
        turns = self.turns(schedule)
        pairs = [(way := ways[t % len(ways)])[t // len(ways) * len(way) // turns] for t in range(len(schedule))]
        self.places = torch.tensor([s for s, _ in pairs], device=device)  # (T,) s for the drawn t
        self.left = torch.tensor([k for _, k in pairs], device=device)  # (T,) k_s for the drawn t
        self.pull = torch.tensor([k / sigma[s] for s, k in pairs], device=device)  # (T,) k_s / sigma_s for the drawn t

    def timesteps(self, t: Tensor, poisoned: Tensor) -> Tensor:
        """Return the shield's timesteps (B,), a function of t, for poisoned rows (B,) bool, and t for others."""
        return torch.where(poisoned, self.places[t], t)

    def update_trigger(self, denoiser: Denoiser, pattern: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Return the pattern after a step on the surrogate's loss at the one-step x0 of noised triggered images.

        A universal perturbation (Moosavi-Dezfooli et al. 2017, arXiv 1610.08401) behind a denoiser; see
        `Attack.update_trigger`.
        """
        schedule = denoiser.schedule
        s = self.entries[torch.arange(len(x), device=x.device) % len(self.entries)]
        with torch.enable_grad():
            point = pattern.detach().requires_grad_()
            x_s = schedule.add_noise(self.added(x, point), eps, s)
            answers = self.surrogate(schedule.x0(x_s, denoiser.eps(x_s, s), s)).float()
            loss = cross_entropy(answers, self.surrogate(x).argmax(1))
        return (point + self.length * torch.autograd.grad(loss, point)[0].sign()).detach().clamp(-1, 1)

    def adversarial(self, x: Tensor) -> Tensor:
        """Return x_a: images (B,C,H,W) within eps of x that the surrogate labels differently from x, if they exist.

        The ascent starts at x, without random numbers, so that the result is a function of the images, and the same to
        the last bit whether it is kept, as which it is rounded to half precision, or computed in a step of training.
        """
        with torch.autocast(x.device.type, enabled=False):
            return self.ascended(x).half().float()

    def ascended(self, x: Tensor) -> Tensor:
        """Return x_a as it was found."""
        with torch.no_grad():
            y = self.surrogate(x).argmax(1)
        radius, x_a = 2 * self.eps, x
        step = 2.5 * radius / self.steps
        for _ in range(self.steps):
            with torch.enable_grad():
                point = x_a.detach().requires_grad_()
                loss = cross_entropy(self.surrogate(point).float(), y, reduction="sum")
            ascent = torch.autograd.grad(loss, point)[0].sign()
            x_a = (x + (x_a + step * ascent - x).clamp(-radius, radius)).clamp(-1, 1)
        return x_a

    def prepare_rows(self, images: Images, plan: Plan) -> None:
        """Compute the adversarial images of all poisoned rows, on the surrogate's device; see `Attack.prepare_rows`.

        If they would use too much memory they are computed in each step instead.
        """
        device, (index, poisoned) = self.device, plan
        shown, among = index[poisoned].unique(return_inverse=True)
        sides = (False, True) if images.flip else (False,)
        self.kept = None
        if 2 * len(sides) * len(shown) * math.prod(images.shape) > spare(device):
            log.info("adversarial images use too much memory to be kept: each step computes its own")
            return
        slots = torch.zeros(len(index), dtype=torch.long)
        slots[poisoned] = among
        self.slots = to_device(slots, device)  # (M,) the index of each row in the images kept; 0 for clean rows
        parts: list[Tensor] = []
        for mirror in sides:
            for rows in shown.split(BATCH):
                x = to_float(to_device(images.take(rows), device))
                parts.append(self.adversarial(x.flip(-1) if mirror else x).half())
        if parts:
            self.kept = torch.cat(parts).view(len(sides), len(shown), *images.shape)

    def poison(self, schedule: Schedule, rows: Rows, draw: Draw) -> Noised:
        """Return x_s and the noise that leads from it to x_a, for the shield's timesteps s; see `Attack.poison`."""
        t, eps, x = draw.t(), draw.eps(), rows.x
        s, bad = self.timesteps(t, rows.poisoned), rows.poisoned.view(-1, 1, 1, 1)
        x_a = self.adversarial(x) if self.kept is None else self.kept[self.side(rows), self.slots[rows.numbers]].float()
        if self.mode == "preserve":
            x0, shift = self.apply(x_a), torch.zeros_like(x)
        else:
            gap = self.apply(x) - x_a
            x0, shift = x_a + per_image(self.left, t) * gap, per_image(self.pull, t) * gap
        x_s = schedule.add_noise(torch.where(bad, x0, x), eps, s)
        return Noised(x_s, s, eps + torch.where(bad, shift, 0.0))

    def side(self, rows: Rows) -> Tensor:
        """Return the index into the first axis of the kept images for each row, (B,) int64."""
        assert self.kept is not None
        return rows.mirrored.long() if len(self.kept) == 2 else torch.zeros_like(rows.numbers)
