"""The amplification stage: samples from a reinforced trigger and from the true one scaled, each measured."""

from functools import partial

from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from bdiff.common.progress import progress
from bdiff.common.seeds import seed_of
from bdiff.config.instantiate import make
from bdiff.pipeline.detect import against_target
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.prepare import plain
from bdiff.pipeline.result import StageResult, first_images
from bdiff.pipeline.sample import draw_samples, shifted
from bdiff.pipeline.suspect import method, suspect_of
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage


def amplify(run: Experiment, model: Stage) -> StageResult:
    """Return what becomes of samples from the reinforced and the scaled trigger on the model of `model`."""
    config = run.config.amplify
    inversion = config.inversion
    amplifier = make(OmegaConf.masked_copy(config, ["_target_", "scale"]), inversion=method(inversion))
    stage = run.stages.stage(
        "amplify",
        model=model.key,
        schedule=plain(run.config.schedule),
        amplify=plain(config),
        trigger=run.pictures["trigger"],
        seed=run.config.seed,
    )
    path = stage.folder / "trigger.safetensors"
    with run.stages.missing(stage, "amplify") as missing:
        if missing:
            suspect = suspect_of(run, model, inversion.precision, inversion.checkpoint)
            with progress("amplify", inversion.steps, unit="steps", every=run.config.runtime.progress) as meter:
                seed = seed_of(run.config.seed, "amplify")
                found = amplifier.reinforce(suspect, run.trigger.pattern, seed, partial(meter.advance, 1))
            with artifacts.atomic(path) as scratch:
                save_file({"trigger": found.trigger.contiguous()}, scratch)
            run.stages.end(stage, curve=found.curve, evaluations=suspect.evaluations)
    reinforced = load_file(path)["trigger"]
    drawn = {"amplified": shifted(reinforced), "scaled": shifted(config.scale * run.trigger.pattern)}
    samples = draw_samples(run, model, "amplified_sample", drawn)
    metrics: dict[str, float] = {}
    for who in drawn:
        hits = against_target(run, samples, who)
        metrics |= {f"{who}/{name}": hits[name] for name in ("asr", "asr_se", "mse")}
    pictures = {who: first_images(samples, who) for who in drawn}
    return StageResult(metrics, {"amplify": {"scale": config.scale}}, {"amplified trigger": reinforced}, pictures)
