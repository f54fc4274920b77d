"""The evaluation of a detection: its verdict, and how near its inverted trigger comes to the true one."""

import logging
from functools import partial

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdiff.common.progress import progress
from bdiff.common.seeds import generator, seed_of
from bdiff.data.base import to_float
from bdiff.defense.base import Detection, Inversion
from bdiff.defense.detection.terd import is_backdoored
from bdiff.metric.target import asr_threshold, compare
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.measure import triggered
from bdiff.pipeline.prepare import plain
from bdiff.pipeline.remove import Found, removed
from bdiff.pipeline.result import StageResult, first_images
from bdiff.pipeline.sample import draw_samples, shifted
from bdiff.pipeline.suspect import method, own, suspect_of
from bdiff.pipeline.train import unshown
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)

CHECKED = 1024  # starting noises of either kind that the input check is tried on


def detected(run: Experiment, model: Stage, detection: Detection) -> StageResult:
    """Invert a trigger, draw samples from it, give the verdict, and compare with the true trigger if there is one."""
    config = run.config.defense
    inverted = invert(run, model, detection)
    manifest = inverted.manifest
    assert manifest is not None
    trigger = load_file(inverted.folder / "trigger.safetensors")["trigger"]
    samples = draw_samples(run, model, "audit_sample", {"inverted": shifted(trigger)})
    first = first_images(samples, "inverted", detection.reads)
    verdict = detection.verdict(Inversion(trigger, manifest["curve"], manifest["evidence"]), to_float(first))
    metrics = {
        "score": verdict.score,
        **verdict.evidence,
        "seconds": manifest["seconds"],
        "evaluations": manifest["evaluations"],
    }
    if detection.threshold is not None:
        metrics["flagged"] = float(verdict.flagged)
    backdoored = run.attack.poison_rate > 0
    known = backdoored and run.attack.starts_samples
    if known:  # the measuring side knows the truth; the detection did not
        hits = against_target(run, samples, "inverted")
        metrics |= fidelity(trigger, run.trigger.pattern, run.trigger.mask) | input_check(run, trigger)
        metrics |= {name: hits[name] for name in ("asr", "asr_se", "mse")}
    told = run.unflagged or ("flagged" if verdict.flagged else "not flagged")
    log.info("audit: score %.4g, %s", verdict.score, told)
    protocol = {
        "backdoored": backdoored,
        "threshold": detection.threshold,
        **({"not flagged": run.unflagged} if run.unflagged else {}),
        "precision": config.precision,
        "marks": unshown(run),
        **({} if known else {"absent": "no true trigger of samples to hold the inverted one against"}),
    }
    answer = StageResult(
        {f"audit/{name}": value for name, value in metrics.items()},
        {"audit": protocol},
        {"inverted trigger": trigger},
        {"inverted": first},
    )
    if not config.repair:
        return answer
    found = Found(trigger, inverted.key)
    return answer | removed(run, model, method(config.removal), plain(config.removal), found)


def invert(run: Experiment, model: Stage, detection: Detection) -> Stage:
    """Let the detection invert a trigger, kept as trigger.safetensors; by the first process."""
    config = run.config.defense
    stage = run.stages.stage(
        "audit",
        model=model.key,
        schedule=plain(run.config.schedule),
        defense=own(config, "threshold"),  # which changes nothing of the trigger
        precision=config.precision,
        seed=run.config.seed,
    )
    with run.stages.missing(stage, "audit") as missing:
        if missing:
            suspect = suspect_of(run, model, config.precision, config.checkpoint)
            with progress("audit", detection.total, unit="steps", every=run.config.runtime.progress) as meter:
                found = detection.invert(suspect, seed_of(run.config.seed, "audit"), partial(meter.advance, 1))
            with artifacts.atomic(stage.folder / "trigger.safetensors") as scratch:
                save_file({"trigger": found.trigger.contiguous()}, scratch)
            run.stages.end(stage, curve=found.curve, evidence=found.evidence, evaluations=suspect.evaluations)
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
