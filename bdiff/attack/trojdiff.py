"""TrojDiff (Chen et al. 2023, arXiv 2303.05762; checked against the authors' code).

Poisoned rows are added to the epoch, in numbers of the clean rows. In the authors' batches they share timestep and
noise with clean rows; here every row of a batch has its own.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from bdiff.attack.affine import AffineAttack
from bdiff.attack.base import Plan
from bdiff.attack.settings import AttackSettings
from bdiff.config.rules import below_one, fraction, one_of
from bdiff.data.base import Images
from bdiff.data.joined import of_class
from bdiff.data.outline import Outline
from bdiff.trigger.base import Trigger

MODES = ("d2i", "in_d2d", "out_d2d")
FORMS = ("patch", "blend")


class TrojDiff(AffineAttack):
    """Poisoned rows diffuse the target, or images of a class, in scaled and shifted noise; see `AffineAttack`.

    Args:
        trigger: where it is opaque a patch changes the noise; a blend changes it everywhere.
        target: of d2i, see `Attack`.
        poison_rate: rows that are added, as a fraction of the clean ones.
        mode: d2i adds copies of the target; in_d2d rows of the data's class `target_class`, each of them once more
            where the rate is the class's share; out_d2d rows of a class of other data.
        target_class: of the data, or of the foreign data with out_d2d: a class's name, or else its number.
        form: a patch has gamma, and mu = (1 - gamma) trigger, where the trigger is opaque, and elsewhere 1 and 0; a
            blend has gamma and mu = (1 - gamma) trigger everywhere.
        gamma: scale of the noise, in [0,1); at 0 only ODE samplers can follow.
        foreign: names the data of out_d2d.
    """

    settings = AttackSettings
    checks = ("bdiff.attack.check.trojdiff_problems", "bdiff.attack.check.adaptive_problems")

    def __init__(
        self,
        trigger: Trigger,
        target: Tensor,
        poison_rate: Annotated[float, fraction, "rows that are added, as a fraction of the clean ones"],
        mode: Annotated[str, one_of(*MODES), "the target: an image, a class of the data, or a class of other data"],
        target_class: Annotated[int | str, "of in_d2d and out_d2d: a class's name, or its number from 0"],
        form: Annotated[str, one_of(*FORMS), "where the noise is changed: under the trigger, or everywhere"],
        gamma: Annotated[float, below_one, "scale of the noise; the paper has 0.1 for a patch and 0.6 for a blend"],
        foreign: Annotated[str | None, "of out_d2d: the other data, an option of data such as letters"] = None,
        foreign_path: Annotated[str | None, "where these are, as data.path; null looks in the cache"] = None,
    ):
        super().__init__(trigger, target, poison_rate, "append")
        self.mode, self.target_class, self.form, self.gamma = mode, target_class, form, gamma
        self.reads = ("trigger", "target") if mode == "d2i" else ("trigger",)

    @property
    def maps(self) -> tuple[Tensor, Tensor]:
        """The scale gamma and the shift mu of the noise, (C,H,W) each."""
        pattern = self.trigger.pattern
        opaque = 1 - self.trigger.mask if self.form == "patch" else torch.ones_like(self.trigger.mask)
        changed = ((1 - self.gamma) * opaque).expand_as(pattern)
        return 1 - changed, changed * pattern

    def read_data(self, images: Images, foreign: Images | None) -> None:
        """Take the target's class from the data; see `Attack.read_data`."""
        if self.mode == "in_d2d":
            self.label = class_number(images, self.target_class)
        elif self.mode == "out_d2d":
            assert foreign is not None
            self.others, self.label = of_class(foreign, class_number(foreign, self.target_class)), len(images.classes)

    def rows(self, labels: Tensor, seed: int) -> Plan:
        """Return all images and the poisoned rows behind them, shuffled by `seed`; see `Attack.rows`."""
        if self.label is None:
            return super().rows(labels, seed)  # whatever these rows show, `poison` puts the target in its place
        among = (
            len(labels) + torch.arange(len(self.others))
            if self.others is not None
            else (labels == self.label).nonzero()[:, 0]
        )
        among = among[torch.randperm(len(among), generator=torch.Generator().manual_seed(seed))]
        count = round(self.poison_rate * len(labels))
        added = among[torch.arange(count) % len(among)].sort().values
        return Plan(torch.cat([torch.arange(len(labels)), added]), torch.arange(len(labels) + count) >= len(labels))

    @property
    def start_key(self) -> Any:
        """See `Attack.start_key`."""
        return [type(self).__name__, self.form, self.gamma]


def class_number(images: Images, wanted: int | str) -> int:
    """Return the number of a class by its name, or else by its number.

    Raises ValueError, naming the setting, if there is no such class, or no image of it.
    """
    names = images.classes
    number = names.index(str(wanted)) if str(wanted) in names else wanted
    if isinstance(number, str) and isinstance(images, Outline):
        return 0  # a plan may not know the names of classes
    if not (isinstance(number, int) and 0 <= number < len(names)):
        raise ValueError(f"attack.target_class={wanted} is no class of {images.name}: choose from {listed(names)}")
    if not (images.labels == number).any():
        present = listed([names[one] for one in images.labels.unique()])
        raise ValueError(f"attack.target_class={wanted} has no image in {images.name}: choose from {present}")
    return number


def listed(names: tuple[str, ...] | list[str], most: int = 12) -> str:
    """Return names as text, of many only the first."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])
