"""One job of `bdiff run`: its folder, its log, its tracker and its metrics.json, whether it succeeds or fails."""

import gc
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.logging import RichHandler

from bdiff.common.errors import RequestError, RunError
from bdiff.common.progress import console
from bdiff.config.folders import asked
from bdiff.config.instantiate import make
from bdiff.config.keys import plain
from bdiff.launch.place import SWEEP
from bdiff.store import artifacts, provenance
from bdiff.store.ledger import ASIDE
from bdiff.store.threads import settle
from bdiff.tracker.none import NoTracker

log = logging.getLogger(__name__)
#: tracebacks go to run.log only; the terminal gets one line
file_log = logging.getLogger("bdiff.file")

SCHEMA = 1
#: what a run removes or writes over in its folder, and what it has there before any of it
REPLACED = ("figures", "wandb", "metrics.json", "report.html", "progress.jsonl", "config.yaml", "run.log")
MARK = "overrides.yaml"


class Recorder(NoTracker):
    """Saves every logged row in the run's progress.jsonl, and passes it on to the user's tracker."""

    def __init__(self, path: Path, tracker: NoTracker):
        self.path, self.tracker = path, tracker

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        self.tracker.log(values, step)

    def picture(self, name: str, path: Path) -> None:
        self.tracker.picture(name, path)

    def samples(self, kinds: Mapping[str, Any]) -> None:
        self.tracker.samples(kinds)

    def conclude(self, metrics: dict[str, float]) -> None:
        self.log(metrics)
        self.tracker.conclude(metrics)


def hydra_job(config: DictConfig) -> dict[str, Any]:
    """Run the job that Hydra composed, in Hydra's run folder; see `job`."""
    hydra = HydraConfig.get()
    return job(config, Path(hydra.runtime.output_dir), *asked(hydra))


def job(config: DictConfig, folder: Path, overrides: list[str], choices: dict[str, str]) -> dict[str, Any]:
    """Run one composed job in `folder` and return its metrics.json.

    A failure is recorded there with its message, and then raised: RequestError if nothing was started, else RunError.
    `overrides` and `choices` (group -> option) are what the config was composed from.
    """
    if config.runtime.get("plan"):
        raise RequestError("runtime.plan=true starts nothing: it is for the commands bdiff run and bdiff rerun")
    examine_folder(folder, REPLACED, MARK, "run", "hydra.run.dir")
    main = int(os.environ.get("RANK", 0)) == 0
    held = artifacts.claim(folder / "run.log") if main else nullcontext()  # locked for the duration of the run
    if held is None:
        raise RequestError(f"another run is using {folder}: wait for it, or set hydra.run.dir to another folder")
    with held:
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder, OmegaConf.to_yaml(OmegaConf.create(overrides)))
        return recorded(config, folder, overrides, choices)


def examine_folder(folder: Path, names: Sequence[str], mark: str, kind: str, option: str) -> None:
    """Raise RequestError if a folder has files of these names, and no `mark` of a `kind` (run, sweep, audit) there.

    `option` is what chooses the folder. An empty file is nobody's: a run that was killed at once leaves its log so.
    """
    if (folder / mark).exists():
        return
    paths = [folder / name for name in names if (folder / name).exists()]
    if theirs := [path.name for path in paths if path.is_dir() or path.stat().st_size]:
        raise RequestError(
            f"{folder} holds {', '.join(theirs)}, which no {kind} of bdiff has left there and this one would remove: "
            f"move it away, or set {option} to another folder"
        )


def clear(folder: Path, words: str) -> None:
    """Remove the files of an earlier run from `folder`, and save the `words` of this one there.

    The log of the same request is continued; that of another is started over.
    """
    for left in (folder / "figures", folder / "wandb", *folder.glob(f"{artifacts.SCRATCH}*")):
        shutil.rmtree(left, ignore_errors=True)
    for name in ("metrics.json", "report.html", "progress.jsonl"):
        (folder / name).unlink(missing_ok=True)
    kept, log = folder / MARK, folder / "run.log"
    if log.exists() and (not kept.exists() or kept.read_text(encoding="utf-8") != words):
        os.truncate(log, 0)
    artifacts.write_text(kept, words)


def recorded(config: DictConfig, folder: Path, overrides: list[str], choices: dict[str, str]) -> dict[str, Any]:
    """Run a job in a folder that is its own; see `job`."""
    main = int(os.environ.get("RANK", 0)) == 0
    setup_logging(folder / "run.log" if main else None, logging.INFO if main else logging.WARNING)
    values: dict[str, Any] = plain(config)
    save_config(folder, values)
    settle(config.runtime.get("threads", "auto"))
    tracker: NoTracker = make(config.tracker) if main else NoTracker()
    tracker.prepare()
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "name": config.name,
        "folder": str(folder),
        "overrides": overrides,
        "choices": choices,
        "published": values["published"],
        **provenance.code(),
        "versions": provenance.versions(),
        "metrics": {},
    }

    def leave(status: str, **more: Any) -> None:
        artifacts.write_json(folder / "metrics.json", {**record, "status": status, **more})

    leave("running")
    began, failed = time.monotonic(), True
    try:
        resolve, run_experiment = experiment()
        resolve(config)  # the saved config has the precision that was used, and a rerun elsewhere keeps it
        values = plain(config)
        if main:
            save_config(folder, values)
        group = "/".join(folder.absolute().parent.parts[-2:]) if SWEEP in os.environ else None
        tracker.start(config.name, {**values, "options": choices}, folder, group, attempts(values))
        recorder = Recorder(folder / "progress.jsonl", tracker)
        record |= run_experiment(config, recorder, partial(shown, folder=folder / "figures", tracker=recorder))
        record["seconds"]["total"] = round(time.monotonic() - began, 3)
        recorder.conclude(record["metrics"])
        leave("done")
        failed = False
    except KeyboardInterrupt:
        leave("interrupted")
        raise
    except Exception as error:
        file_log.error("failed", exc_info=True)
        known = isinstance(error, RunError | RequestError)
        line = str(error) if known else f"{type(error).__name__}: {error}".splitlines()[0]
        leave("failed", error=line)
        if isinstance(error, RequestError):
            raise
        raise RunError(f"{line} (see {folder / 'run.log'})") from error
    finally:
        tracker.finish(failed)
        if main:
            page(folder)
    return record


def attempts(values: dict[str, Any]) -> Path:
    """Return the file that belongs to all attempts at the run of a resolved config."""
    key = artifacts.digest({name: value for name, value in values.items() if name not in ASIDE})
    return Path(values["paths"]["outputs"]) / "attempts" / key


def shown(figures: Mapping[str, Any], folder: Path, tracker: NoTracker) -> None:
    """Draw figures into `folder` and pass them to the tracker."""
    from bdiff.report.gallery import show  # imports matplotlib, when there is something to draw

    show(figures, folder, tracker)


def page(folder: Path) -> None:
    """Write the run's report.html; an error is logged and does not change the run's result."""
    from bdiff.report.page import write_run_page

    try:
        write_run_page(folder)
    except Exception as error:  # a full disk, a damaged picture: the run's numbers are already saved
        log.warning("no report.html (%s: %s)", type(error).__name__, error)
        file_log.error("report.html", exc_info=True)


def save_config(folder: Path, values: dict[str, Any]) -> None:
    """Write config.yaml."""
    artifacts.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(values)))


def experiment() -> tuple[Callable[[DictConfig], None], Callable[..., dict[str, Any]]]:
    """Return what resolves a config on its device, and `run_experiment`.

    Their imports are most of a run's startup time; the garbage collector would slow them down.
    """
    gc.disable()
    try:
        from bdiff.pipeline.main import resolve, run_experiment
    finally:
        gc.enable()
    return resolve, run_experiment


def setup_logging(path: Path | None, level: int) -> None:
    """Log bdiff's lines from `level` to the terminal and, with a `path`, to that file, which also gets tracebacks."""
    rich = RichHandler(console=console, show_path=False, show_time=False, show_level=False)
    terminal = rich if console.is_terminal else logging.StreamHandler()
    if console.quiet_progress:
        terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    file_log.handlers[:] = [logging.NullHandler()]
    if path:
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
        file_log.addHandler(file)
    file_log.propagate = False
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger("bdiff").setLevel(level)
