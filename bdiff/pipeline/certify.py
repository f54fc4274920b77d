"""The certification stage: Cohen's table for every row and kind of input, and what is read off it."""

from statistics import fmean

import torch
from torch import Tensor

from bdiff.common.device import autocast
from bdiff.defense.base import Logits, RadiusShield
from bdiff.defense.shields import cohen
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.names import ROWS
from bdiff.pipeline.prepare import plain
from bdiff.pipeline.result import CertifiedCurves, StageResult
from bdiff.pipeline.trial import EvalSet, announce, denoiser, facts, networks_left, row_stage
from bdiff.store.artifacts import Stage

POINTS = 201  # of a curve in the figure
STOPPED = "defense.stop=radii ends an image when the wanted radii are decided, so its radius is only a lower bound"


def certified(run: Experiment, shield: RadiusShield, on: EvalSet, rows: dict[str, list[Stage]]) -> StageResult:
    """Return certified accuracies and average radii of every row, on clean and triggered images."""
    config = run.config.defense
    own = shield.key | {"precision": config.precision}
    stages = {row: row_stage(run, on, "certification", models, shield=own) for row, models in rows.items()}
    networks = networks_left(stages, rows)
    if networks and run.stages.main:
        noisy = torch.randn((shield.batch_size, *run.images.shape), device=run.stages.device)
        logits = noisy_classifier(run, shield, on, rows["suspect"])
        copies = networks * len(on.inputs) * len(on.labels) * shield.draws  # the most, where images end early
        announce(run, "certification", copies, logits, noisy)
    metrics, found = {}, {}
    for row, stage in stages.items():
        who = ROWS[row].certified
        build(run, shield, on, rows[row], stage, who)
        for kind in on.inputs:
            found[ROWS[row].label, kind] = table = cohen.read(stage.folder / f"{kind}.tsv")
            for radius, share in zip(config.radii, cohen.certified_accuracy(table, config.radii), strict=True):
                metrics[f"{who}/{kind}/acc@{radius:g}"] = share
            if shield.stop == "radii":
                metrics[f"{who}/{kind}/draws"] = fmean(line.draws or 0 for line in table)
            else:
                metrics[f"{who}/{kind}/acr"] = cohen.acr(table)
    reach = plain(config.radii)
    if shield.stop == "never":
        furthest = max([*config.radii, *(line.radius for table in found.values() for line in table)])
        reach = torch.linspace(0, 1.05 * furthest, POINTS).tolist()
    curves = {of: cohen.certified_accuracy(table, reach) for of, table in found.items()}
    protocol = {
        **facts(run, on),
        **own,
        "radii": plain(config.radii),
        **({"acr": {"absent": STOPPED}} if shield.stop == "radii" else {}),
        "tables": {ROWS[row].certified: str(stage.folder) for row, stage in stages.items()},
    }
    figure = CertifiedCurves(f"{run.config.name}, sigma {shield.sigma:g}", reach, curves, shield.stop == "radii")
    return StageResult(metrics, {"certification": protocol}, figures={"certified": figure})


def noisy_classifier(run: Experiment, shield: RadiusShield, on: EvalSet, models: list[Stage]) -> Logits:
    """Return the classifier of noisy images behind the models' denoiser; alone if there are none."""

    def classifier(x: Tensor) -> Tensor:
        with autocast(run.config.defense.precision, run.stages.device):  # it is asked as often as the denoiser is
            return on.classifier(x).float()

    if not models:
        return classifier
    return shield.behind(denoiser(run, models), run.diffusion.schedule_here, classifier)


def build(run: Experiment, shield: RadiusShield, on: EvalSet, models: list[Stage], stage: Stage, who: str) -> None:
    """Keep a table for every kind of input; one that a killed run has begun goes on where it ends."""
    with run.stages.missing(stage, who) as wanted:
        if wanted:
            logits = noisy_classifier(run, shield, on, models)
            for kind, x in on.inputs.items():
                stage.folder.mkdir(parents=True, exist_ok=True)
                shield.run(
                    logits,
                    x.to(run.stages.device),
                    on.labels,
                    on.indices,
                    stage.folder / f"{kind}.tsv",
                    seed=run.config.defense.seed,
                    name=f"{who} {kind}",
                    every=run.config.runtime.progress,
                )
            run.stages.end(stage)
