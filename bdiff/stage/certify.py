"""The certification stage: Cohen's table for every row and kind of input, and what is read off it."""

import time
from functools import partial

import torch
from torch import Tensor

from bdiff.context import Experiment, plain
from bdiff.defense import cohen
from bdiff.defense.base import Logits
from bdiff.defense.certification import Certification
from bdiff.device import autocast
from bdiff.make import make
from bdiff.report.certified import certified as picture
from bdiff.report.shield_table import ROWS
from bdiff.stage.answer import Answer
from bdiff.stage.trial import Trial, announce, denoiser, facts, networks_left, row_stage
from bdiff.store import Stage

POINTS = 201  # of a curve in the figure


def certified(run: Experiment, shield: Certification, on: Trial, rows: dict[str, list[Stage]]) -> Answer:
    """Return certified accuracies and average radii of every row, on clean and triggered images."""
    config = run.config.defense
    own = {name: value for name, value in vars(shield).items() if name != "batch_size"}  # which changes no vote
    own["precision"] = config.precision
    stages = {row: row_stage(run, on, "certification", models, shield=own) for row, models in rows.items()}
    networks = networks_left(stages, rows)
    if networks and run.accelerator.is_main_process:
        noisy = torch.randn((shield.batch_size, *run.images.shape), device=run.device)
        logits = noisy_classifier(run, shield, on, rows["suspect"])
        copies = networks * len(on.inputs) * len(on.labels) * (shield.n0 + shield.n)
        announce(run, "certification", copies, logits, noisy)
    metrics, found = {}, {}
    for row, stage in stages.items():
        who = ROWS[row].certified
        build(run, shield, on, rows[row], stage, who)
        for kind in on.inputs:
            found[ROWS[row].label, kind] = table = cohen.read(stage.folder / f"{kind}.tsv")
            for radius, share in zip(config.radii, cohen.certified_accuracy(table, config.radii), strict=True):
                metrics[f"{who}/{kind}/acc@{radius:g}"] = share
            metrics[f"{who}/{kind}/acr"] = cohen.acr(table)
    furthest = max([*config.radii, *(line.radius for table in found.values() for line in table)])
    reach = torch.linspace(0, 1.05 * furthest, POINTS).tolist()
    curves = {of: cohen.certified_accuracy(table, reach) for of, table in found.items()}
    protocol = {
        **facts(run, on),
        **own,
        "radii": plain(config.radii),
        "tables": {ROWS[row].certified: str(stage.folder) for row, stage in stages.items()},
    }
    draw = partial(picture, title=f"{run.config.name}, sigma {shield.sigma:g}", radii=reach, curves=curves)
    return Answer(metrics, {"certification": protocol}, figures={"certified": draw})


def noisy_classifier(run: Experiment, shield: Certification, on: Trial, models: list[Stage]) -> Logits:
    """Return the classifier of noisy images behind the models' denoiser; alone if there are none."""

    def classifier(x: Tensor) -> Tensor:
        with autocast(run.config.defense.precision, run.device):  # it is asked as often as the denoiser is
            return on.classifier(x).float()

    if not models:
        return classifier
    return shield.behind(denoiser(run, models), make(run.config.schedule).to(run.device), classifier)


def build(run: Experiment, shield: Certification, on: Trial, models: list[Stage], stage: Stage, who: str) -> None:
    """Keep a table for every kind of input; one that a killed run has begun goes on where it ends."""
    with run.building(stage, who) as wanted:
        if wanted and run.accelerator.is_main_process:
            began = time.monotonic()
            logits = noisy_classifier(run, shield, on, models)
            for kind, x in on.inputs.items():
                stage.folder.mkdir(parents=True, exist_ok=True)
                shield.run(
                    logits,
                    x.to(run.device),
                    on.labels,
                    on.indices,
                    stage.folder / f"{kind}.tsv",
                    seed=run.config.defense.seed,
                    name=f"{who} {kind}",
                    every=run.config.runtime.progress,
                )
            stage.finish(time.monotonic() - began)
