"""The shield stage: a classifier behind a denoiser, with the controls, on clean, attacked and triggered images.

An image that is both has the trigger put into the adversarial image, whose trigger is then intact. What an adaptive
attacker makes of the clean images is its own kind, and differs from row to row.
"""

from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from bdiff.adversary.pgd import cost
from bdiff.attack.base import Attack
from bdiff.common.seeds import generator
from bdiff.config.keys import plain
from bdiff.data.base import Images, to_float, to_uint8
from bdiff.defense.base import LabelShield, RadiusShield, Shield
from bdiff.defense.shields.purification import Shielded
from bdiff.defense.shields.strip import entropies, threshold
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.engine import steady
from bdiff.diffusion.mode import Work
from bdiff.pipeline.adversarial import adversarial, adversary_key, attack
from bdiff.pipeline.certify import certified
from bdiff.pipeline.eval_set import EvalSet
from bdiff.pipeline.names import KINDS, ROWS
from bdiff.pipeline.result import Column, ShieldRows, StageResult
from bdiff.pipeline.shield_table import (
    ShieldTable,
    announce,
    by_batch,
    identity,
    mean_denoiser,
    networks_left,
    row_stage,
)
from bdiff.pipeline.stages import BATCHES, Stages, keep
from bdiff.store.artifacts import Stage

SHOWN = 8  # images of the figure
GRADIENTS = {"full": 4, "bpda": 1}  # forward passes' worth of a step of an attack: two, and the way back


@singledispatch
def shielded(shield: Shield, stages: Stages, table: ShieldTable, backdoor: Attack, images: Images) -> StageResult:
    """Return how the classifier fares in every row of the shield's table, by what the shield answers.

    `backdoor` says how images get its trigger; `images` are those of training.
    """
    raise TypeError(f"{type(shield).__name__} gives neither labels nor radii")


@shielded.register
def _(shield: RadiusShield, stages: Stages, table: ShieldTable, backdoor: Attack, images: Images) -> StageResult:
    return certified(stages, shield, table)


@shielded.register
def _(shield: LabelShield, stages: Stages, table: ShieldTable, backdoor: Attack, images: Images) -> StageResult:
    result = purified(stages, shield, table, backdoor)
    if not table.config.strip.overlays:
        return result
    return result | StageResult(flagged(stages, shield, table, images))


def purified(stages: Stages, shield: LabelShield, table: ShieldTable, backdoor: Attack) -> StageResult:
    """Return the accuracies of every row, and a figure of what the denoisers make of triggered images."""
    config, attacked = table.config, adversarial(stages, table.on, table.config)
    both = {"adversarial": attacked, "triggered_adversarial": backdoor.apply(attacked)}
    table = table.among(table.on.inputs | both)
    rows = {row: purified_stage(stages, shield, table, models) for row, models in table.rows.items()}
    networks = networks_left(rows, table.rows)
    if networks and stages.main:
        eps = mean_denoiser(table, table.rows["suspect"])
        batch = table.on.inputs["clean"][: config.batch_size].to(stages.device)
        shown = networks * label_evaluations(shield, config, len(table.on.labels), len(table.on.inputs))
        announce("shield", shown, lambda x: eps(x, 0), batch, stages.peers.count)
    manifests = {
        row: purify(stages, shield, table, table.rows[row], stage, ROWS[row].purified) for row, stage in rows.items()
    }
    if stages.planning:
        return StageResult()
    metrics: dict[str, float] = {}
    labels, pictures, nothing = {}, {}, []
    for row, stage in rows.items():
        who, manifest = ROWS[row].purified, manifests[row]
        accuracy = manifest["accuracy"]
        metrics |= {f"{who}/{kind}/accuracy": accuracy[kind] for kind in KINDS if kind in accuracy}
        if "asr" in manifest:
            metrics[f"{who}/asr"] = manifest["asr"]
        else:
            nothing.append(who)
        kept = load_file(stage.folder / "answers.safetensors")
        labels[row], pictures[row] = kept["triggered"][:SHOWN], kept["seen"]
    protocol = {
        **shield.key,
        "adversary": plain(config.adversary),
        "adaptive": plain(config.adaptive) if config.adaptive.steps else {"absent": "defense.adaptive.steps=0"},
        "network evaluations of an image": shield.evaluations,
        **({"asr": {"absent": f"no clean image is labelled right: {', '.join(nothing)}"}} if nothing else {}),
    }
    return StageResult(metrics, {"shield": protocol}, figures={"shield": figure(table, labels, pictures)})


def label_evaluations(shield: LabelShield, config: DictConfig, count: int, kinds: int) -> int:
    """Return how many images one row shows to one network: `count` of so many kinds, and those of an adaptive attack.

    An attack's gradients count by what they cost.
    """
    adaptive = config.adaptive
    attacks = cost(count, adaptive.steps, adaptive.eot, shield.evaluations) * GRADIENTS[adaptive.gradient]
    return attacks + count * (kinds + (adaptive.steps > 0)) * shield.evaluations


def purified_stage(stages: Stages, shield: LabelShield, table: ShieldTable, models: list[Stage]) -> Stage:
    """Return the stage of a row, of all that its numbers depend on."""
    config = table.config
    if not models:
        return row_stage(stages, table, "no shield", models)
    adaptive = adversary_key(config) | plain(config.adaptive) if config.adaptive.steps else None
    return row_stage(stages, table, "purification", models, shield=identity(shield), adaptive=adaptive)


def purify(
    stages: Stages, shield: LabelShield, table: ShieldTable, models: list[Stage], stage: Stage, who: str
) -> dict[str, Any]:
    """Keep the labels of every kind of input, and the first triggered images as the classifier saw them.

    Returns the manifest, with the accuracies.
    """
    config, on, device = table.config, table.on, stages.device

    def build() -> dict[str, Any]:
        inputs, count = dict(on.inputs), len(on.labels)
        first = on.inputs["triggered"][:SHOWN].to(device)
        if models:
            schedule = table.diffusion.schedule_here
            shown = count * (len(inputs) + (config.adaptive.steps > 0)) * shield.evaluations
            eps = mean_denoiser(table, models, settle=settled(stages, stage, shield, table, shown))
            guarded = Shielded(shield, eps, schedule, on.classifier, seed=config.seed)
            ask = guarded.labels
            see: Callable[[], Tensor] = partial(guarded.images, first, on.indices[:SHOWN].tolist())
            if config.adaptive.steps:
                inputs["adaptive"] = adaptive(stages, shield, table, models, stage, who)
        else:
            ask, see = partial(bare, on), lambda: first
        with stages.meter(who, len(inputs) * count, "images") as meter:
            answers = {}
            for kind, x in inputs.items():

                def labels(part: slice, x: Tensor = x) -> Tensor:
                    return ask(x[part].to(device), on.indices[part].tolist())

                folder = stage.folder / BATCHES / kind
                answers[kind] = by_batch(folder, count, config.batch_size, labels, meter, stages.peers)
        right = {kind: found == on.labels for kind, found in answers.items()}
        if stages.main:
            keep(stage.folder / "answers.safetensors", {**answers, "seen": to_uint8(steady(see)).cpu()})
        accuracy = {kind: hits.double().mean().item() for kind, hits in right.items()}
        return {"accuracy": accuracy, **asr(right["clean"], right["triggered"])}

    return stages.once(stage, build, who, together=True)


def settled(
    stages: Stages,
    stage: Stage,
    shield: LabelShield,
    table: ShieldTable,
    shown: int,  # images, to the network
    purpose: str = "network",
    gradients: bool = False,
) -> Callable[[Suspect], None]:
    """Return what puts a suspect into the stage's mode for so much work, which all processes share."""
    work = Work(shown, table.config.batch_size * shield.copies, gradients)
    return lambda suspect: stages.settle(stage, suspect, work, purpose, together=True)


@torch.inference_mode()
def bare(on: EvalSet, x: Tensor, indices: list[int]) -> Tensor:
    """Return the labels (B,) that the classifier gives by itself."""
    return on.classifier(x).argmax(1)


def asr(clean: Tensor, triggered: Tensor) -> dict[str, float]:
    """Return 1 - accuracy on triggered images among those that are labelled right without the trigger.

    Both (K,) bool, whether the label is right. Nothing if none is right.
    """
    return {"asr": 1 - triggered[clean].double().mean().item()} if clean.any() else {}


def adaptive(
    stages: Stages, shield: LabelShield, table: ShieldTable, models: list[Stage], stage: Stage, who: str
) -> Tensor:
    """Return the clean images (K,C,H,W) as PGD through the shield changes them, kept batch by batch."""
    config, on, device = table.config, table.on, stages.device
    full, settings = config.adaptive.gradient == "full", config.adversary.copy()
    settings.steps = config.adaptive.steps
    shown = cost(len(on.labels), settings.steps, config.adaptive.eot, shield.evaluations)
    settle = settled(stages, stage, shield, table, shown, "adaptive", gradients=full)
    eps, schedule = mean_denoiser(table, models, recompute=full, settle=settle), table.diffusion.schedule_here
    guarded = Shielded(shield, eps, schedule, on.classifier, seed=config.seed, bpda=not full)

    def attacked(part: slice) -> Tensor:
        x, y = on.inputs["clean"][part].to(device), on.labels[part].to(device)
        indices = on.indices[part].tolist()
        shield_now = guarded.attacked(indices)
        return attack(shield_now, x, y, indices, settings, config.seed, "adaptive", config.adaptive.eot)

    folder, count = stage.folder / BATCHES / "adversary", len(on.labels)
    with stages.meter(f"{who} adaptive", count, "images") as meter:
        return by_batch(folder, count, config.batch_size, attacked, meter, stages.peers)


def flagged(stages: Stages, shield: LabelShield, table: ShieldTable, images: Images) -> dict[str, float]:
    """Return the entropy check's `strip/tpr` on triggered inputs behind the shield, and `strip/fpr` on clean ones.

    A half of the clean inputs, drawn at random, sets the threshold; both rates are those of the other half. `images`
    are overlaid.
    """
    config, on, models = table.config, table.on, table.rows["suspect"]
    settings = plain(config.strip)
    rate = settings.pop("false_positive_rate")
    data = {"data": images.fingerprint, "strip": settings}
    stage = row_stage(stages, table, "strip", models, shield=identity(shield), **data)
    path, count = stage.folder / "entropies.safetensors", len(on.labels)

    def build() -> dict[str, Any]:
        shown = 2 * count * config.strip.overlays * shield.evaluations
        eps = mean_denoiser(table, models, settle=settled(stages, stage, shield, table, shown))
        guarded = Shielded(shield, eps, table.diffusion.schedule_here, on.classifier, seed=config.seed)
        drawn = torch.randperm(len(images), generator=generator(config.seed, "blends"))[: config.strip.overlays]
        overlays = to_float(images.take(drawn)).to(stages.device)
        if stages.main:
            batch = on.inputs["clean"][: config.batch_size].to(stages.device)
            announce("strip", shown, lambda x: eps(x, 0), batch, stages.peers.count)
        with stages.meter("strip", 2 * count, "images") as meter:
            found = {}
            for kind in ("clean", "triggered"):

                def entropy(part: slice, x: Tensor = on.inputs[kind]) -> Tensor:
                    logits = guarded.attacked(on.indices[part].tolist())
                    return entropies(logits, x[part].to(stages.device), overlays, config.strip.weight)

                folder = stage.folder / BATCHES / kind
                found[kind] = by_batch(folder, count, config.batch_size, entropy, meter, stages.peers)
        if stages.main:
            keep(path, found)
        return {}

    stages.once(stage, build, "strip", together=True)
    if stages.planning:
        return {}
    kept = load_file(path)
    known, others = torch.randperm(count, generator=generator(config.seed, "strip")).split([count // 2, -(-count // 2)])
    least = threshold(kept["clean"][known], rate)
    rates = {"tpr": kept["triggered"], "fpr": kept["clean"]}
    return {f"strip/{name}": (values[others] < least).double().mean().item() for name, values in rates.items()}


def figure(table: ShieldTable, labels: dict[str, Tensor], pictures: dict[str, Tensor]) -> ShieldRows:
    """Return what shows the first images: as they are, triggered, and purified by the clean model and the suspect."""
    on = table.on
    x, triggered = (on.inputs[kind][:SHOWN] for kind in ("clean", "triggered"))
    change = triggered - x
    factor = max(1, int(1 / change.abs().max().clamp(min=0.02)))  # as strong as it can be shown
    plainly = bare(on, x.to(table.diffusion.device), []).cpu()

    def words(given: Tensor) -> list[str]:
        return [on.classes[int(label)] for label in given]

    columns = [
        Column("input", to_uint8(x), words(plainly)),
        Column("triggered", to_uint8(triggered), words(labels["none"])),
        Column(f"change, x {factor}", to_uint8(factor * change)),
        Column("by the clean model", pictures["clean"], words(labels["clean"])),
        Column("by the suspect", pictures["suspect"], words(labels["suspect"])),
    ]
    return ShieldRows(table.name, words(on.labels[:SHOWN]), columns)
