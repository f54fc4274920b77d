"""A shield's table: a stage for every row, whose models denoise for the classifier, with what all rows need."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from bdiff.common.device import memory_errors, synchronize
from bdiff.common.peers import ALONE, Peers
from bdiff.common.progress import Meter
from bdiff.defense.base import Eps, LabelShield, RadiusShield
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.engine import steady
from bdiff.pipeline.eval_set import EvalSet
from bdiff.pipeline.stages import MEMORY_HINTS, Stages, keep
from bdiff.pipeline.suspect import Diffusion, suspect_of
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShieldTable:
    """What a shield is evaluated on, and by which rows."""

    name: str  # of the run, for the titles of figures
    config: DictConfig  # conf/defense
    diffusion: Diffusion
    on: EvalSet
    rows: dict[str, list[Stage]]  # the models that denoise in each, see `bdiff.pipeline.names.ROWS`; none: no shield

    def among(self, inputs: dict[str, Tensor]) -> "ShieldTable":
        """Return the same with other kinds of inputs."""
        return replace(self, on=self.on.among(inputs))


def row_stage(stages: Stages, table: ShieldTable, what: str, models: list[Stage], **settings: Any) -> Stage:
    """Return the stage of a row: `what` is done, and with which models and settings."""
    return stages.stage(
        "shield",
        what=what,
        models=[model.key for model in models],
        schedule=table.diffusion.key if models else None,
        precision=table.config.precision if models else None,
        seed=table.config.seed,
        **table.on.identity,
        **settings,
    )


def identity(shield: LabelShield | RadiusShield) -> dict[str, Any]:
    """Return what keys say of a shield: its settings, and its class if that is of another package."""
    path = f"{type(shield).__module__}.{type(shield).__qualname__}"
    return shield.key | ({} if path.startswith("bdiff.") else {"_target_": path})


def networks_left(stages: dict[str, Stage], rows: dict[str, list[Stage]]) -> int:
    """Return how many networks there are to be asked in rows that are not finished; rows with the same key are one."""
    return sum({stage.key: len(rows[row]) for row, stage in stages.items() if stage.manifest is None}.values())


def mean_denoiser(
    table: ShieldTable,
    models: list[Stage],
    recompute: bool = False,
    settle: Callable[[Suspect], None] = lambda suspect: None,
) -> Eps:
    """Return the mean noise that models predict of x (B,C,H,W), in the same shape.

    With `recompute`, gradients through it take less memory; `settle` puts each model into the mode of its stage, eager
    mode without.
    """
    suspects = [suspect_of(model, table.diffusion, table.config.precision, recompute) for model in models]
    for suspect in suspects:
        settle(suspect)
    return lambda x, t: torch.stack([suspect.eps(x, t) for suspect in suspects]).mean(0)


def by_batch(
    folder: Path, count: int, size: int, make: Callable[[slice], Tensor], meter: Meter, peers: Peers = ALONE
) -> Tensor:
    """Return (count,...): `make` of every batch of the rows, joined; kept in `folder` as they come, to be made once.

    `make` returns (B,...), of any dtype, of a slice of B rows. `size` is the batch's, and changes no number. Each of
    several processes makes its part, and all get the whole.
    """
    batches = [(first, min(first + size, count)) for first in range(0, count, size)]
    paths = [folder / f"{first}-{last}.safetensors" for first, last in batches]
    for (first, last), path in peers.mine(list(zip(batches, paths, strict=True))):
        if not artifacts.whole(path):
            keep(path, {"part": steady(partial(make, slice(first, last))).cpu().contiguous()})
        meter.advance(min(count - first, size * peers.count))  # the others make theirs meanwhile
    peers.wait()
    return torch.cat([load_file(path)["part"] for path in paths])


def announce(name: str, evaluations: int, ask: Callable[[Tensor], Any], batch: Tensor, processes: int) -> None:
    """Log what is to come: so many images shown to the network, and an estimate of the time from one batch on it.

    The `batch` is (B,C,H,W), float, on the device. `processes` share the images.
    """

    def timed() -> float:
        began = time.monotonic()
        ask(batch)
        synchronize(batch.device)
        return time.monotonic() - began

    with torch.inference_mode(), memory_errors(name, batch.device, MEMORY_HINTS["shield"]):
        timed()  # the first is slower than those that follow
        seconds = timed() * evaluations / len(batch) / processes
    log.info("%s: %s images to be shown to the network, about %.3g s", name, f"{evaluations:,}", seconds)
