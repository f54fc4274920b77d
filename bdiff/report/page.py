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

from bdiff.report.cells import public
from bdiff.report.meanings import EXPLAINED, meaning
from bdiff.report.pivot import decides, differ, in_order, label, ordered, short, text
from bdiff.report.removal_table import removal_tables
from bdiff.report.runs import Run, read, readable
from bdiff.report.shields import shields
from bdiff.report.table import columns, shown, with_error
from bdiff.store import artifacts
from bdiff.store.provenance import in_words

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
    artifacts.write_text(path, templates().get_template(template).render(parts))
    return path


def write_run_page(folder: Path, published: Path | None = None) -> Path:
    """Write `folder`/report.html from the files of the run in `folder`, and return its path.

    If it is to be `published`, in that file, it neither links to the folder nor says where anything lies on this
    machine. Raises FileNotFoundError if there is no run.
    """
    run = read(folder)
    record, metrics = run.record, run.record.get("metrics", {})
    config, overrides = public(run) if published else (run.config, record["overrides"])
    protocol = record.get("protocol", {})
    counts = [protocol.get(name, {}).get("count") for name in ("asr", "class_asr")]
    figures = {path.stem: embed(path) for path in sorted((folder / "figures").glob("*.png"))}
    chosen = {name: run.value(name) for name in CHOICES} | {"poison rate": run.value("attack.poison_rate")}
    return write(
        published or folder / "report.html",
        "run.html",
        title=record["name"],
        status=record["status"],
        record=record,
        folder=None if published else str(folder.absolute()),
        drawn={"triggered": counts[0] or counts[1]},
        overrides=overrides,
        choices={name: value for name, value in chosen.items() if value is not None},
        figures=figures,
        stages=record.get("keys", {}),
        others=[name for name in figures if name not in PLACED],
        explained=EXPLAINED,
        published=(record.get("published") or {}).get("metrics", {}),
        sheets=shields([run], []) + removal_tables(metrics),
        command=shlex.join(["bdiff", "run", *overrides]),
        config=OmegaConf.to_yaml(OmegaConf.create(config)),
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
    """Return the run in `folder`, or a stand-in with status lost if its files are missing or damaged."""
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
    found = {key: [run.value(key) for run in runs] for key in keys if key != "seed"}
    values = {key: {*some} for key, some in found.items() if {type(one) for one in some} <= {int, float}}
    numeric = [key for key, some in values.items() if len(some) > 1]
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
