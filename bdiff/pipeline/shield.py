"""The shield stage: a classifier behind a denoiser, with the controls, on clean, attacked and triggered images.

An image that is both has the trigger put into the adversarial image, whose trigger is then whole. What an adaptive
attacker makes of the clean images is its own kind, and differs from row to row.
"""

import shutil
from functools import partial, singledispatch

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bdiff.adversary.pgd import cost
from bdiff.common.progress import progress
from bdiff.common.seeds import generator
from bdiff.data.base import to_float, to_uint8
from bdiff.defense.base import LabelShield, RadiusShield, Shield
from bdiff.defense.shields.purification import Shielded
from bdiff.defense.shields.strip import entropies, threshold
from bdiff.pipeline.certify import certified
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.names import KINDS, ROWS
from bdiff.pipeline.prepare import plain
from bdiff.pipeline.result import Column, ShieldRows, StageResult
from bdiff.pipeline.trial import (
    BATCHES,
    EvalSet,
    adversarial,
    adversary_key,
    announce,
    attack,
    by_batch,
    denoiser,
    facts,
    networks_left,
    row_stage,
    trial,
)
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage

SHOWN = 8  # images of the figure
GRADIENTS = {"full": 4, "bpda": 1}  # network evaluations' worth of one in an attack: forth, forth again, and back


def shielded(run: Experiment, shield: Shield, rows: dict[str, list[Stage]], clean: str) -> StageResult:
    """Return how the classifier fares in every row of the shield's table; `rows` are the models that denoise in each.

    No models: the classifier stands alone. `clean` says which model the clean one is.
    """
    answer = tried(shield, run, trial(run), rows)
    for told in answer.protocol.values():
        told["clean model"] = clean
    return answer


@singledispatch
def tried(shield: Shield, run: Experiment, on: EvalSet, rows: dict[str, list[Stage]]) -> StageResult:
    """Return what comes of trying a shield, by what it answers."""
    raise TypeError(f"{type(shield).__name__} gives neither labels nor radii")


@tried.register
def _(shield: RadiusShield, run: Experiment, on: EvalSet, rows: dict[str, list[Stage]]) -> StageResult:
    return certified(run, shield, on, rows)


@tried.register
def _(shield: LabelShield, run: Experiment, on: EvalSet, rows: dict[str, list[Stage]]) -> StageResult:
    return purified(run, shield, on, rows)


def purified(run: Experiment, shield: LabelShield, on: EvalSet, rows: dict[str, list[Stage]]) -> StageResult:
    """Return the accuracies of every row, and a figure of what the denoisers make of triggered images."""
    config = run.config.defense
    attacked = adversarial(run, on)
    on = on.among({**on.inputs, "adversarial": attacked, "triggered_adversarial": run.attack.apply(attacked)})
    stages = {row: purified_stage(run, shield, on, models) for row, models in rows.items()}
    networks = networks_left(stages, rows)
    if networks and run.stages.main:
        eps, batch = denoiser(run, rows["suspect"]), on.inputs["clean"][: config.batch_size].to(run.stages.device)
        announce(run, "shield", networks * evaluations(run, shield, on), lambda x: eps(x, 0), batch)
    metrics: dict[str, float] = {}
    labels, pictures, nothing = {}, {}, []
    for row, stage in stages.items():
        who = ROWS[row].purified
        build(run, shield, on, rows[row], stage, who)
        manifest = stage.manifest
        assert manifest is not None
        shares = manifest["accuracy"]
        metrics |= {f"{who}/{kind}/accuracy": shares[kind] for kind in KINDS if kind in shares}
        if "asr" in manifest:
            metrics[f"{who}/asr"] = manifest["asr"]
        else:
            nothing.append(who)
        kept = load_file(stage.folder / "answers.safetensors")
        labels[row], pictures[row] = kept["triggered"][:SHOWN], kept["seen"]
    if config.strip.overlays:
        metrics |= flagged(run, shield, on, rows["suspect"])
    protocol = {
        **facts(run, on),
        **shield.key,
        "adversary": plain(config.adversary),
        "adaptive": plain(config.adaptive) if config.adaptive.steps else {"absent": "defense.adaptive.steps=0"},
        "network evaluations of an image": shield.evaluations,
        **({"asr": {"absent": f"no clean image is labelled right: {', '.join(nothing)}"}} if nothing else {}),
    }
    return StageResult(metrics, {"shield": protocol}, figures={"shield": figure(run, on, labels, pictures)})


def evaluations(run: Experiment, shield: LabelShield, on: EvalSet) -> int:
    """Return how many images one row shows to one network, those of an adaptive attack by what their gradients cost."""
    adaptive, count = run.config.defense.adaptive, len(on.labels)
    tried = cost(count, adaptive.steps, adaptive.eot, shield.evaluations) * GRADIENTS[adaptive.gradient]
    return tried + count * (len(on.inputs) + (adaptive.steps > 0)) * shield.evaluations


def purified_stage(run: Experiment, shield: LabelShield, on: EvalSet, models: list[Stage]) -> Stage:
    """Return the stage of a row, of all that its numbers depend on."""
    config = run.config.defense
    if not models:
        return row_stage(run, on, "no shield", models)
    adaptive = adversary_key(config) | plain(config.adaptive) if config.adaptive.steps else None
    return row_stage(run, on, "purification", models, shield=shield.key, adaptive=adaptive)


def build(run: Experiment, shield: LabelShield, on: EvalSet, models: list[Stage], stage: Stage, who: str) -> None:
    """Keep the labels of every kind of input, and the first triggered images as the classifier saw them."""
    config = run.config.defense
    with run.stages.building(stage, who) as wanted:
        if not (wanted and run.stages.main):
            return
        inputs, count = dict(on.inputs), len(on.labels)
        first = on.inputs["triggered"][:SHOWN].to(run.stages.device)
        if models:
            schedule = run.diffusion.schedule_here
            guarded = Shielded(shield, denoiser(run, models), schedule, on.classifier, seed=config.seed)
            ask, seen = guarded.labels, guarded.images(first, on.indices[:SHOWN].tolist())
            if config.adaptive.steps:
                inputs["adaptive"] = adaptive(run, shield, on, models, stage, who)
        else:
            ask, seen = partial(bare, on), first
        with progress(who, len(inputs) * count, unit="images", every=run.config.runtime.progress) as meter:
            answers = {}
            for kind, x in inputs.items():

                def labels(part: slice, x: Tensor = x) -> Tensor:
                    return ask(x[part].to(run.stages.device), on.indices[part].tolist())

                answers[kind] = by_batch(stage.folder / BATCHES / kind, count, config.batch_size, labels, meter)
        right = {kind: found == on.labels for kind, found in answers.items()}
        with artifacts.atomic(stage.folder / "answers.safetensors") as scratch:
            save_file({**answers, "seen": to_uint8(seen).cpu()}, scratch)
        shutil.rmtree(stage.folder / BATCHES)
        accuracy = {kind: hits.double().mean().item() for kind, hits in right.items()}
        run.stages.end(stage, accuracy=accuracy, **asr(right["clean"], right["triggered"]))


@torch.inference_mode()
def bare(on: EvalSet, x: Tensor, indices: list[int]) -> Tensor:
    """Return the labels (B,) that the classifier gives by itself."""
    return on.classifier(x).argmax(1)


def asr(clean: Tensor, triggered: Tensor) -> dict[str, float]:
    """Return 1 - accuracy on triggered images among those that are labelled right without the trigger.

    Both (K,) bool, whether the label is right. Nothing if none is right.
    """
    return {"asr": 1 - triggered[clean].double().mean().item()} if clean.any() else {}


def adaptive(run: Experiment, shield: LabelShield, on: EvalSet, models: list[Stage], stage: Stage, who: str) -> Tensor:
    """Return the clean images (K,C,H,W) as PGD through the shield changes them, kept batch by batch."""
    config = run.config.defense
    full, settings = config.adaptive.gradient == "full", config.adversary.copy()
    settings.steps = config.adaptive.steps
    eps, schedule = denoiser(run, models, recompute=full), run.diffusion.schedule_here
    guarded = Shielded(shield, eps, schedule, on.classifier, seed=config.seed, bpda=not full)

    def attacked(part: slice) -> Tensor:
        x, y = on.inputs["clean"][part].to(run.stages.device), on.labels[part].to(run.stages.device)
        indices = on.indices[part].tolist()
        shield_now = guarded.attacked(indices)
        return attack(shield_now, x, y, indices, settings, config.seed, "adaptive", config.adaptive.eot)

    with progress(f"{who} adaptive", len(on.labels), unit="images", every=run.config.runtime.progress) as meter:
        return by_batch(stage.folder / BATCHES / "adversary", len(on.labels), config.batch_size, attacked, meter)


def flagged(run: Experiment, shield: LabelShield, on: EvalSet, models: list[Stage]) -> dict[str, float]:
    """Return the entropy check's `strip/tpr` on triggered inputs behind the shield, and `strip/fpr` on clean ones.

    A half of the clean inputs, drawn at random, sets the threshold; both rates are those of the other half.
    """
    config = run.config.defense
    settings = plain(config.strip)
    rate = settings.pop("false_positive_rate")
    data = {"data": run.images.fingerprint, "strip": settings}
    on = on.among({kind: on.inputs[kind] for kind in ("clean", "triggered")})
    stage = row_stage(run, on, "strip", models, shield=shield.key, **data)
    path, count = stage.folder / "entropies.safetensors", len(on.labels)
    with run.stages.missing(stage, "strip") as wanted:
        if wanted:
            schedule = run.diffusion.schedule_here
            eps = denoiser(run, models)
            guarded = Shielded(shield, eps, schedule, on.classifier, seed=config.seed)
            drawn = torch.randperm(len(run.images), generator=generator(config.seed, "blends"))[: config.strip.overlays]
            others = to_float(run.images.take(drawn)).to(run.stages.device)
            shown = 2 * count * len(others) * shield.evaluations
            batch = on.inputs["clean"][: config.batch_size].to(run.stages.device)
            announce(run, "strip", shown, lambda x: eps(x, 0), batch)
            with progress("strip", 2 * count, unit="images", every=run.config.runtime.progress) as meter:
                found = {}
                for kind in ("clean", "triggered"):

                    def entropy(part: slice, x: Tensor = on.inputs[kind]) -> Tensor:
                        logits = guarded.attacked(on.indices[part].tolist())
                        return entropies(logits, x[part].to(run.stages.device), others, config.strip.weight)

                    found[kind] = by_batch(stage.folder / BATCHES / kind, count, config.batch_size, entropy, meter)
            with artifacts.atomic(path) as scratch:
                save_file(found, scratch)
            shutil.rmtree(stage.folder / BATCHES)
            run.stages.end(stage)
    kept = load_file(path)
    known, others = torch.randperm(count, generator=generator(config.seed, "strip")).split([count // 2, -(-count // 2)])
    least = threshold(kept["clean"][known], rate)
    rates = {"tpr": kept["triggered"], "fpr": kept["clean"]}
    return {f"strip/{name}": (values[others] < least).double().mean().item() for name, values in rates.items()}


def figure(run: Experiment, on: EvalSet, labels: dict[str, Tensor], pictures: dict[str, Tensor]) -> ShieldRows:
    """Return what shows the first images: as they are, triggered, and purified by the clean model and the suspect."""
    x, triggered = (on.inputs[kind][:SHOWN] for kind in ("clean", "triggered"))
    change = triggered - x
    factor = max(1, int(1 / change.abs().max().clamp(min=0.02)))  # as strong as it can be shown
    plainly = bare(on, x.to(run.stages.device), []).cpu()

    def words(given: Tensor) -> list[str]:
        return [on.classes[int(label)] for label in given]

    columns = [
        Column("input", to_uint8(x), words(plainly)),
        Column("triggered", to_uint8(triggered), words(labels["none"])),
        Column(f"change, x {factor}", to_uint8(factor * change)),
        Column("by the clean model", pictures["clean"], words(labels["clean"])),
        Column("by the suspect", pictures["suspect"], words(labels["suspect"])),
    ]
    return ShieldRows(run.config.name, words(on.labels[:SHOWN]), columns)
