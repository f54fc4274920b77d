"""Pages of runs and of sweeps: one self-contained HTML file each."""

import base64
import json
import math
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from omegaconf import OmegaConf
from PIL import Image

from bdiff.pipeline.names import ROWS
from bdiff.report.pivot import decides, differ, in_order, label, ordered, short, text
from bdiff.report.removal_table import removal_tables
from bdiff.report.runs import Run, read, readable
from bdiff.report.shield_table import shield_tables
from bdiff.report.table import columns, shown, with_error
from bdiff.store import artifacts
from bdiff.store.provenance import in_words

#: the meaning of metrics, by the last part of the name, or by the whole where the last has another elsewhere
MEANINGS = {
    "asr": "Attack success rate: the fraction of triggered samples that show the target.",
    "false_trigger": "How much of the backdoor leaks into ordinary use: the fraction of clean samples that show the "
    "target; of the data's own images as a yardstick (data).",
    "class_asr": "Attack success rate: the fraction of triggered samples that are of the target class.",
    "class_asr_real": "The same of real images of the class, not seen in training: what an attack can reach.",
    "class_precision": "Fraction of triggered samples within the manifold of the class's images. Higher is better.",
    "class_precision_real": "The same of real images of the class, not seen in training.",
    "mse": "Mean squared error between triggered samples and the target, pixels in [0,1]. 0 is the target itself.",
    "ssim": "Structural similarity of triggered samples and the target. 1 is the target itself.",
    "psnr": "Peak signal-to-noise ratio of triggered samples against the target, in dB. Higher is closer.",
    "lpips": "Perceptual distance between triggered samples and the target. 0 is the target itself.",
    "fid": "Fréchet Inception distance between clean samples and the data. Lower is better.",
    "fid_classifier": "Fréchet distance of clean samples to the data in the features of the run's own classifier. "
    "Lower is better; it is not comparable with FID.",
    "kid": "Kernel Inception distance between clean samples and the data. Lower is better.",
    "inception_score": "Inception score of clean samples. Higher is better.",
    "precision": "Fraction of clean samples within the manifold of the data. Higher is better.",
    "recall": "Fraction of the data within the manifold of clean samples. Higher is better.",
    "sample_psnr": "PSNR of the clean samples against the clean model's from the same noise, in dB. Higher is closer.",
    "secret_psnr": "How well the hidden target is extracted, in dB against the target in 8 bits. Higher is closer.",
    "secret_ssim": "Structural similarity of the extracted and the hidden target. 1 is the target itself.",
    "accuracy": "Fraction of images that the classifier labels correctly.",
    "acc": "Fraction of images that are labelled correctly and certified at this L2 radius, images in [0,1].",
    "acr": "Average certified L2 radius, images in [0,1]; wrongly labelled images count as 0.",
    "tpr": "Fraction of triggered inputs that the entropy check flags.",
    "fpr": "Fraction of clean inputs that the entropy check flags.",
    "relative_score": "1 minus how much samples from the inverted trigger differ from each other, relative to clean "
    "samples of the same model: 1 where all are one picture, near 0 where the trigger does nothing.",
    "specific_score": "The relative score, less where that picture is blank: a constant shift of the starting noise "
    "makes any model draw a blank.",
    "trigger_score": "1 minus the loss of the inverted trigger, relative to that of no trigger.",
    "combined_score": "The mean of the relative score and the trigger's score.",
    "called_up": "Fraction of samples from the inverted trigger that show the picture it calls up, their median.",
    "flagged": "1 if the model's score reaches the detection's threshold.",
    "cosine": "Cosine of the inverted trigger and the true one. 1 is the true one's direction.",
    "cosine_patch": "The same on the trigger's patch alone, from the background.",
    "l2": "L2 distance of the inverted trigger to the true one, pixels in [-1,1].",
    "l2_patch": "The same on the trigger's patch alone.",
    "tv": "Total variation of the samples from the inverted trigger: small where they are smooth pictures.",
    "kl_mean": "KL divergence of noise with the inverted trigger from noise, the mean over pixels.",
    "kl_variance": "The same, its variance over pixels.",
    "input_tpr": "Fraction of triggered starting noises that TERD's input check sees with the inverted trigger.",
    "input_tnr": "Fraction of clean starting noises that it lets pass.",
    "evaluations": "Images that the network evaluates for it.",
    "seconds": "Seconds on this device.",
    "audit/score": "The detection's score: the higher, the likelier a backdoor.",
    "audit/loss": "The loss of the inversion at its end.",
    "uniformity": "Mean squared distance between samples from the inverted trigger, pixels in [0,1]; 0: all are equal.",
    "inputs/tpr": "Fraction of starting noises with the trigger that the input check flags, at the false-positive "
    "rate asked for (@: at this one).",
    "inputs/fpr": "Fraction of other clean starting noises than those of the threshold that the input check flags.",
    "inputs/auroc": "Probability that a starting noise with the trigger has a higher score than a clean one.",
    "evaluations_per_input": "Images that the network evaluates to score one starting noise.",
    "seconds_per_input": "Seconds on this device to score one starting noise, in batches.",
    "evaluations_per_model": "Images that the network evaluates once per model, before any score: clean chains, or an "
    "inversion, with gradients.",
    "seconds_per_model": "Seconds of the same on its device.",
}
SHIELDED_ASR = "Attack success rate: of the images labelled correctly, the fraction labelled wrongly with the trigger."
#: what other figures show
EXPLAINED = {
    "triggers": "The trigger of the attack, and what the detection inverted from the model.",
    "inverted": "What the model draws from noise with the inverted trigger added.",
    "repaired_clean": "What the model draws after the removal.",
    "repaired_triggered": "The same with the attack's trigger.",
    "guarded_clean": "What the model draws with the sampling defense.",
    "guarded_triggered": "The same with the attack's trigger.",
}
#: figures with a fixed place on a run's page; the others follow them
PLACED = ("trigger", "target", "stamped_example", "clean", "triggered", "trajectory", "overview", "loss")
#: groups named in the head of a run's page, if set
CHOICES = ("attack", "data", "trigger", "target", "defense", "sampler")


@dataclass(frozen=True)
class Picture:
    """A picture within a page."""

    uri: str
    width: int | None = None
    height: int | None = None
    pixelated: bool = False  # whether it is enlarged without interpolation


def embed(path: Path) -> Picture:
    """Return the PNG at `path` for embedding in a page."""
    with Image.open(path, formats=["PNG"]) as image:
        width, height = image.size
    return Picture(data_uri(path.read_bytes(), "image/png"), width, height, pixelated=width <= 800)


def thumbnail(path: Path, side: int = 280) -> Picture:
    """Return a thumbnail of the PNG at `path`, of a few kilobytes."""
    with Image.open(path, formats=["PNG"]) as image:
        small = image.reduce(max(1, round(image.width / side)))
    content = BytesIO()
    small.save(content, "WEBP", quality=85)
    return Picture(data_uri(content.getvalue(), "image/webp"), *small.size)


def data_uri(content: bytes, kind: str) -> str:
    """Return `content` of the media type `kind` as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def meaning(metric: str) -> str:
    """Return the meaning of a metric named `who/what`, if known."""
    who, _, what = metric.rpartition("/")
    if what == "asr" and who in {row.purified for row in ROWS.values()}:
        return SHIELDED_ASR
    what = what.partition("@")[0]
    return MEANINGS.get(f"{who}/{what}") or MEANINGS.get(what, "")


def duration(seconds: float) -> str:
    """Return a duration in readable units: 8.4 s, 1 min 56 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@cache
def templates() -> Environment:
    """Return the templates in this folder, with autoescaping."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"duration": duration, "number": shown, "quote": shlex.quote, "pretty": pretty, "short": short}
    made.filters |= {"meaning": meaning, "columns": columns, "with_error": with_error, "in_words": in_words}
    return made


def pretty(value: Any) -> str:
    """Return `value` as readable JSON."""
    return json.dumps(value, indent=2, sort_keys=True)


def write(path: Path, template: str, **parts: Any) -> Path:
    """Write the page `path` from a template and return it."""
    with artifacts.atomic(path) as scratch:
        scratch.write_text(templates().get_template(template).render(parts), encoding="utf-8")
    return path


def write_run_page(folder: Path) -> Path:
    """Write `folder`/report.html from the files of the run in `folder`, and return its path.

    Raises FileNotFoundError if there is no run.
    """
    run = read(folder)
    record, metrics = run.record, run.record.get("metrics", {})
    figures = {path.stem: embed(path) for path in sorted((folder / "figures").glob("*.png"))}
    chosen = {name: run.value(name) for name in CHOICES} | {"poison rate": run.value("attack.poison_rate")}
    return write(
        folder / "report.html",
        "run.html",
        title=record["name"],
        status=record["status"],
        record=record,
        folder=str(folder.absolute()),
        choices={name: value for name, value in chosen.items() if value is not None},
        figures=figures,
        stages=record.get("keys", {}),
        others=[name for name in figures if name not in PLACED],
        explained=EXPLAINED,
        published=(record.get("published") or {}).get("metrics", {}),
        sheets=shield_tables(metrics) + removal_tables(metrics),
        command=shlex.join(["bdiff", "run", *record["overrides"]]),
        config=OmegaConf.to_yaml(OmegaConf.create(run.config)),
    )


def write_sweep_page(folders: Sequence[Path], out: Path, title: str) -> Path:
    """Write the page `out` of a sweep whose jobs ran in `folders`, with links relative to it, and return its path."""
    runs = [run_or_trace(folder) for folder in folders]
    known = [run for run in runs if run.config]
    typed = dict.fromkeys(key for run in known for key in run.typed if decides(key) or key == "seed")
    keys = [key for key in typed if differ(known, key)]
    done = [run for run in known if run.done]
    metrics = in_order(name for run in done for name in run.metrics)
    return write(
        out,
        "sweep.html",
        title=title,
        counts=Counter(run.record["status"] for run in runs),
        swept={key: [value for (value,) in ordered({label(run, [key]) for run in known})] for key in keys},
        metrics=metrics,
        jobs=[job_parts(run, keys, out.parent) for run in runs],
        charts=sweep_charts(done, keys, metrics),
        command=sweep_command(known),
    )


def run_or_trace(folder: Path) -> Run:
    """Return the run in `folder`, or a stand-in with status lost or damaged if its files are missing or damaged."""
    there = (folder / "config.yaml").exists() and (folder / "metrics.json").exists()
    run = readable(folder) if there else None
    return run or Run(folder, {"name": folder.name, "status": "lost", "overrides": []}, {})


def job_parts(run: Run, keys: list[str], base: Path) -> dict[str, Any]:
    """Return one job's part of a sweep's page; its links are relative to `base`."""

    def link(name: str) -> str | None:
        path = run.folder / name
        return quote(Path(os.path.relpath(path, base)).as_posix()) if path.exists() else None

    thumbs = {name: run.folder / "figures" / f"{name}.png" for name in ("clean", "triggered")}
    return {
        "name": ", ".join(f"{key.rpartition('.')[2]} {text(run.value(key))}" for key in keys if run.config)
        or run.record["name"],
        "settings": label(run, keys),
        "record": run.record,
        "metrics": run.metrics,
        "folder": link("."),
        "report": link("report.html"),
        "log": link("run.log") or link("output.log"),
        "place": str(run.folder),
        "base": run.folder.name,
        "thumbs": {name: thumbnail(path) for name, path in thumbs.items() if path.exists()},
    }


def sweep_charts(runs: Sequence[Run], keys: list[str], metrics: list[str]) -> dict[str, Picture]:
    """Return a chart for each metric of success or quality: over a numeric swept key, else a bar per job."""
    from bdiff.report import charts  # matplotlib is slow to import, and not needed for pages of runs

    axis = numeric_key(runs, keys)
    others = [key for key in keys if key not in (axis, "seed")]
    found = {}
    for metric in metrics:
        who, _, what = metric.rpartition("/")
        if who == "data":  # no model's
            continue
        if what in ("asr", "class_asr", "false_trigger", "mse") or what.startswith("fid"):
            drawn = charts.over(runs, metric, axis, others) if axis else charts.bars(runs, metric, keys or ["name"])
            found[metric] = Picture(data_uri(drawn, "image/svg+xml"))
    return found


def numeric_key(runs: Sequence[Run], keys: list[str]) -> str | None:
    """Return the swept key for the horizontal axis: the poison rate, else the numeric one with the most values."""
    values = {key: {run.value(key) for run in runs} for key in keys if key != "seed"}
    numeric = [key for key, found in values.items() if len(found) > 1 and {type(one) for one in found} <= {int, float}]
    if "attack.poison_rate" in numeric:
        return "attack.poison_rate"
    return max(numeric, key=lambda key: len(values[key]), default=None)


def sweep_command(runs: Sequence[Run]) -> str | None:
    """Return the command that runs all of `runs` as one sweep, or None if they are not all combinations."""
    words: dict[str, dict[str, None]] = {}
    for run in runs:
        for word in run.record["overrides"]:
            key, _, value = word.partition("=")
            words.setdefault(key, {})[value] = None
    if not runs or math.prod(len(values) for values in words.values()) != len(runs):
        return None
    return shlex.join(["bdiff", "run", "-m", *(f"{key}={','.join(values)}" for key, values in words.items())])
