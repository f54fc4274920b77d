"""The defense stage: an audit's verdict, a repair or a guard, each sampled and measured by the code of the attack."""

import logging
import math
import shutil
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdiff.common.progress import progress
from bdiff.common.seeds import generator, seed_of
from bdiff.data.base import to_float
from bdiff.defense.base import Audit, Guard, Inversion, Repair, Shield
from bdiff.defense.detection.terd import is_backdoored
from bdiff.diffusion.training import Loss, Recipe, fit, read_history
from bdiff.metric.target import asr_threshold, compare
from bdiff.model import checkpoint
from bdiff.pipeline.context import Experiment, plain, resident, without
from bdiff.pipeline.measure import measure, triggered
from bdiff.pipeline.result import Answer, first_images
from bdiff.pipeline.sample import draw_samples, kinds, shifted
from bdiff.pipeline.shield import shielded
from bdiff.pipeline.suspect import AROUND, method, suspect_of
from bdiff.pipeline.train import Start, clean_model, unshown
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)

CHECKED = 1024  # starting noises of either kind that the input check is tried on


def defend(run: Experiment, model: Stage, start: Start) -> Answer:
    """Return what the request's defense says of the model of `model`, trained from `start`, or makes of it."""
    found = method(run.config.defense)
    if isinstance(found, Shield):
        return shielded(run, found, *rows(run, model, start))
    if isinstance(found, Audit):
        return audited(run, model, found)
    if isinstance(found, Repair):
        return repaired(run, model, found, without(run.config.defense, "removal"), None, None)
    assert isinstance(found, Guard)
    return remeasured(run, draw_samples(run, model, "guarded_sample", guard=found), "guarded")


def rows(run: Experiment, model: Stage, start: Start) -> tuple[dict[str, list[Stage]], str]:
    """Return the rows of a shield's table, see `report.shield_table.ROWS`, and which model the clean one is in words.

    Each row has the models that denoise for it.
    """
    config = run.config.defense
    innocent, words = (model, "the suspect") if run.attack.poison_rate == 0 else clean_model(run, start)
    found: dict[str, list[Stage]] = {"none": [], "clean": [innocent], "suspect": [model]}
    if config.ensemble:
        found["ensemble"] = [model, innocent]
    if config.repair:
        found["repaired"] = [repair_of(run, model, method(config.removal), plain(config.removal), None, None)]
    return found, words


def remeasured(run: Experiment, samples: Stage, who: str) -> Answer:
    """Return what `measure` says of the samples of `who`; its protocol is the suspect's."""
    pictures = {f"{who} {kind}": first_images(samples, kind) for kind in kinds(run)}
    return Answer(measure(run, samples, who=who)["metrics"], samples=pictures)


def audited(run: Experiment, model: Stage, audit: Audit) -> Answer:
    """Invert a trigger, draw samples from it, give the verdict, and compare with the true trigger if there is one."""
    config = run.config.defense
    inverted = invert(run, model, audit)
    manifest = inverted.manifest
    assert manifest is not None
    trigger = load_file(inverted.folder / "trigger.safetensors")["trigger"]
    samples = draw_samples(run, model, "audit_sample", {"inverted": shifted(trigger)})
    first = first_images(samples, "inverted", config.get("samples", 0))
    verdict = audit.verdict(Inversion(trigger, manifest["curve"], manifest["evidence"]), to_float(first))
    metrics = {
        "score": verdict.score,
        **verdict.evidence,
        "seconds": manifest["seconds"],
        "evaluations": manifest["evaluations"],
    }
    if audit.threshold is not None:
        metrics["flagged"] = float(verdict.flagged)
    backdoored = run.attack.poison_rate > 0
    known = backdoored and run.attack.starts_samples
    if known:  # the measuring side knows the truth; the audit did not
        hits = against_target(run, samples, "inverted")
        metrics |= fidelity(trigger, run.trigger.pattern, run.trigger.mask) | input_check(run, trigger)
        metrics |= {name: hits[name] for name in ("asr", "asr_se", "mse")}
    told = run.unflagged or ("flagged" if verdict.flagged else "not flagged")
    log.info("audit: score %.4g, %s", verdict.score, told)
    protocol = {
        "backdoored": backdoored,
        "threshold": audit.threshold,
        **({"not flagged": run.unflagged} if run.unflagged else {}),
        "precision": config.precision,
        "marks": unshown(run),
        **({} if known else {"absent": "no true trigger of samples to hold the inverted one against"}),
    }
    answer = Answer(
        {f"audit/{name}": value for name, value in metrics.items()},
        {"audit": protocol},
        {"inverted trigger": trigger},
        {"inverted": first},
    )
    if not config.repair:
        return answer
    return answer | repaired(run, model, method(config.removal), plain(config.removal), trigger, inverted.key)


def invert(run: Experiment, model: Stage, audit: Audit) -> Stage:
    """Let the audit invert a trigger, kept as trigger.safetensors; by the first process."""
    config = run.config.defense
    stage = run.stage(
        "audit",
        model=model.key,
        schedule=plain(run.config.schedule),
        defense=without(config, *AROUND, "threshold"),  # which change nothing of the trigger
        seed=run.config.seed,
    )
    with run.building(stage, "audit") as missing:
        if missing and run.accelerator.is_main_process:
            suspect = suspect_of(run, model, config.precision, config.checkpoint)
            with progress("audit", audit.total, unit="steps", every=run.config.runtime.progress) as meter:
                found = audit.invert(suspect, seed_of(run.config.seed, "audit"), partial(meter.advance, 1))
            with artifacts.atomic(stage.folder / "trigger.safetensors") as scratch:
                save_file({"trigger": found.trigger.contiguous()}, scratch)
            run.finish(stage, curve=found.curve, evidence=found.evidence, evaluations=suspect.evaluations)
    return stage


def against_target(run: Experiment, samples: Stage, kind: str) -> dict[str, float]:
    """Return how near samples of a kind come to the attack's target, by name of the measure."""
    threshold = asr_threshold(run.config.metric.asr_threshold, run.images.shape[1])
    return compare(triggered(run, samples, kind), run.target, threshold)


def fidelity(trigger: Tensor, pattern: Tensor, mask: Tensor) -> dict[str, float]:
    """Return L2 distance and cosine of an inverted trigger to the true one, both (C,H,W), on the patch and as a whole.

    `mask` (1,H,W) is 1 off the patch. Distances are norms over pixels, images in [-1,1]; on the patch angles are taken
    from the background, -1, since a trigger's grey is 0 and has none from there.
    """
    patch = (1 - mask).expand_as(pattern).bool()
    return {
        "l2": (trigger - pattern).norm().item(),
        "l2_patch": (trigger - pattern)[patch].norm().item(),
        "cosine": cosine(trigger.flatten(), pattern.flatten()),
        "cosine_patch": cosine(1 + trigger[patch], 1 + pattern[patch]),
    }


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of two vectors (n,), 0 if either is zero."""
    return nn.functional.cosine_similarity(a, b, dim=0).item()


def input_check(run: Experiment, trigger: Tensor) -> dict[str, float]:
    """Return how often TERD's input check sees the true trigger in noise (TPR), and lets plain noise pass (TNR)."""
    eps = torch.randn((CHECKED, *run.images.shape), generator=generator(run.config.seed, "input check"))
    tpr = is_backdoored(run.attack.prior(eps), trigger).float().mean().item()
    return {"input_tpr": tpr, "input_tnr": 1 - is_backdoored(eps, trigger).float().mean().item()}


def repaired(
    run: Experiment,
    model: Stage,
    repair: Repair,
    settings: dict[str, Any],  # of conf/defense: the repair's, with `images` and `train`
    trigger: Tensor | None,
    origin: str | None,  # the key of what the trigger came from
) -> Answer:
    """Repair the model, then sample and measure it as the suspect was."""
    stage = repair_of(run, model, repair, settings, trigger, origin)
    return remeasured(run, draw_samples(run, stage, "repaired_sample"), "repaired")


def repair_of(
    run: Experiment,
    model: Stage,
    repair: Repair,
    settings: dict[str, Any],  # as `repaired` has them
    trigger: Tensor | None,
    origin: str | None,
) -> Stage:
    """Repair the model; the stage's `model` folder is a checkpoint as the suspect's is."""
    rows = torch.randperm(len(run.images), generator=generator(run.config.seed, "repair"))
    rows = rows[: max(1, math.ceil(settings["images"] * len(rows)))].sort().values
    recipe = Recipe(**settings["train"])
    recipe = replace(recipe, steps=recipe.total(len(rows)), epochs=None)
    stage = run.stage(
        "repair",
        model=model.key,
        schedule=plain(run.config.schedule),
        data=run.images.fingerprint,
        flip=run.images.flip,
        repair=settings | {"train": asdict(recipe)},
        trigger=origin,
        seed=run.config.seed,
    )
    with run.building(stage, "repair") as missing:
        if missing:
            images = resident(run.images.subset(rows), run.device)

            def train(net: nn.Module, loss: Loss) -> nn.Module:
                return fit(
                    net,
                    loss,
                    images,
                    torch.arange(len(images)),
                    recipe,
                    seed=seed_of(run.config.seed, "repair"),
                    folder=stage.folder,
                    loop=run.loop,
                    accelerator=run.accelerator,
                    name="repair",
                    record=partial(run.record, "repair"),
                )

            unet = repair.repair(suspect_of(run, model), images, trigger, train)
            if run.accelerator.is_main_process:
                assert isinstance(unet, UNet2DModel)
                checkpoint.save(stage.folder / "model", unet, run.schedule, {"repaired": model.key, "key": stage.key})
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
            run.finish(stage, images=len(rows))
        elif run.accelerator.is_main_process:
            for row in read_history(stage.folder / "history.jsonl"):
                run.record("repair", row)
    return stage
