"""The certification stage: Cohen's table for every row and kind of input, and what is read off it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from bdiff.common.device import to_device
from bdiff.common.seeds import generator
from bdiff.config.keys import plain
from bdiff.defense.base import Logits, RadiusShield
from bdiff.defense.shields import cohen
from bdiff.diffusion.engine import Engine, steady
from bdiff.diffusion.mode import Work
from bdiff.pipeline.eval_set import EvalSet
from bdiff.pipeline.names import ROWS
from bdiff.pipeline.result import CertifiedCurves, StageResult
from bdiff.pipeline.shield_table import ShieldTable, announce, identity, mean_denoiser, networks_left, row_stage
from bdiff.pipeline.stages import BATCHES, HasEngine, Stages
from bdiff.store.artifacts import Stage

#: puts a network into the mode that a stage has for what it is called there
Settle = Callable[[HasEngine, str], None]

POINTS = 201  # of a curve in the figure
STOPPED = "defense.stop=radii ends an image when the radii asked for are decided, so its radius is only a lower bound"


def certified(stages: Stages, shield: RadiusShield, table: ShieldTable) -> StageResult:
    """Return certified accuracies and average radii of every row, on clean and triggered images."""
    config, on = table.config, table.on
    own = {"precision": config.precision}
    about = identity(shield) | own
    rows = {row: row_stage(stages, table, "certification", models, shield=about) for row, models in table.rows.items()}
    networks = networks_left(rows, table.rows)
    if networks and stages.main:
        noisy = torch.randn((shield.batch_size, *table.diffusion.shape), device=stages.device)
        logits = noisy_classifier(shield, table, table.rows["suspect"])
        copies = networks * len(on.inputs) * len(on.labels) * shield.draws  # the most, where images end early
        announce("certification", copies, logits, noisy, stages.peers.count)
    for row, stage in rows.items():
        certify(stages, shield, table, table.rows[row], stage, ROWS[row].certified)
    if stages.planning:
        return StageResult()
    metrics, found = {}, {}
    for row, stage in rows.items():
        who = ROWS[row].certified
        for kind in on.inputs:
            found[ROWS[row].label, kind] = lines = cohen.read(stage.folder / f"{kind}.tsv")
            for radius, accuracy in zip(config.radii, cohen.certified_accuracy(lines, config.radii), strict=True):
                metrics[f"{who}/{kind}/acc@{radius:g}"] = accuracy
            if shield.stop == "radii":
                metrics[f"{who}/{kind}/draws"] = fmean(line.draws or 0 for line in lines)
            else:
                metrics[f"{who}/{kind}/acr"] = cohen.acr(lines)
    reach = plain(config.radii)
    if shield.stop == "never":
        furthest = max([*config.radii, *(line.radius for lines in found.values() for line in lines)])
        reach = torch.linspace(0, 1.05 * furthest, POINTS).tolist()
    curves = {of: cohen.certified_accuracy(lines, reach) for of, lines in found.items()}
    protocol = {
        **shield.key,
        **own,
        "radii": plain(config.radii),
        **({"acr": {"absent": STOPPED}} if shield.stop == "radii" else {}),
        "tables": {ROWS[row].certified: "/".join(stage.folder.parts[-2:]) for row, stage in rows.items()},
    }
    figure = CertifiedCurves(f"{table.name}, sigma {shield.sigma:g}", reach, curves, shield.stop == "radii")
    return StageResult(metrics, {"certification": protocol}, figures={"certified": figure})


class Classifies:
    """The classifier as a certification asks it, as often as the denoiser: in its precision, by an engine."""

    def __init__(self, table: ShieldTable):
        self.table, self.engine = table, Engine(table.on.classifier, logits_of, table.config.precision)

    def example(self, count: int) -> tuple[Tensor, ...]:
        """Return `count` images of noise."""
        drawn = torch.randn((count, *self.table.diffusion.shape), generator=generator("certify"))
        return (to_device(drawn, self.table.diffusion.device),)


def logits_of(classifier: nn.Module, x: Tensor) -> Tensor:
    """Return a classifier's logits (B, classes), float32, of x (B,C,H,W) in [-1,1]."""
    logits: Tensor = classifier(x).float()
    return logits


def noisy_classifier(
    shield: RadiusShield, table: ShieldTable, models: list[Stage], settle: Settle = lambda asked, purpose: None
) -> Logits:
    """Return the classifier of noisy images behind the models' denoiser; alone if there are none.

    `settle` puts each network into the mode of the stage, under its purpose there; eager mode without.
    """
    classifier = Classifies(table)
    settle(classifier, "classifier")
    if not models:
        return classifier.engine
    eps = mean_denoiser(table, models, settle=lambda suspect: settle(suspect, "network"))
    return shield.behind(eps, table.diffusion.schedule_here, classifier.engine)


def certify(
    stages: Stages, shield: RadiusShield, table: ShieldTable, models: list[Stage], stage: Stage, who: str
) -> None:
    """Keep Cohen's table for every kind of input; one that a killed run has begun goes on where it ends.

    Several processes share the images that it lacks, and write the rows of each into a part of its own.
    """
    on, peers = table.on, stages.peers
    work = Work(len(on.inputs) * len(on.labels) * shield.draws, shield.batch_size)

    def build() -> dict[str, Any]:
        stage.folder.mkdir(parents=True, exist_ok=True)
        logits = noisy_classifier(
            shield, table, models, lambda asked, purpose: stages.settle(stage, asked, work, purpose, together=True)
        )
        known = joined(stages, stage, on)
        for kind, x in on.inputs.items():
            path, todo = stage.folder / f"{kind}.tsv", torch.arange(len(on.labels))
            if peers.count > 1:
                path = part_of(stage, kind, peers.rank)
                lacking = [place for place, index in enumerate(on.indices.tolist()) if index not in known[kind]]
                todo = torch.tensor(peers.mine(lacking), dtype=torch.int64)
            if not len(todo):
                continue
            shield.run(
                lambda noisy: steady(partial(logits, noisy)),
                x[todo].to(stages.device),
                on.labels[todo],
                on.indices[todo],
                path,
                seed=table.config.seed,
                name=f"{who} {kind}",
                every=stages.loop.progress,
            )
        peers.wait()
        joined(stages, stage, on)
        return {}

    stages.once(stage, build, who, together=True)


def joined(stages: Stages, stage: Stage, on: EvalSet) -> dict[str, set[int]]:
    """Let the first process join what processes have left of every table; return which images each table has."""
    found = {}
    if stages.main:
        for kind in on.inputs:
            parts = sorted(part_of(stage, kind, 0).parent.glob(f"{kind}-*.tsv"))
            found[kind] = cohen.join(stage.folder / f"{kind}.tsv", parts, on.indices.tolist())
    return stages.peers.gather(found)[0]


def part_of(stage: Stage, kind: str, rank: int) -> Path:
    """Return where the process `rank` puts its rows of a table."""
    return stage.folder / BATCHES / f"{kind}-{rank}.tsv"
