"""`bdiff run`: a request is validated, then Hydra composes and starts its job, or the jobs of its sweep."""

import argparse
import atexit
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdiff.cli.main import DONE, FAILED
from bdiff.cli.plan import print_plans, settled
from bdiff.common.errors import RequestError, RunError, one_line
from bdiff.common.progress import Screen, console
from bdiff.config.compose import jobs
from bdiff.config.folders import SEARCHPATH, with_folder
from bdiff.config.options import PACKAGE
from bdiff.config.plugins import register
from bdiff.config.sweeps import repeated_values, shared_alike, written_out
from bdiff.config.words import normal, quoted
from bdiff.launch.live_view import BEFORE, WAITING, Board
from bdiff.launch.place import SWEEP, TO_RUN
from bdiff.launch.process import watched
from bdiff.launch.sweep import carry_out, ledger_of
from bdiff.report.options import settings_of, settings_table
from bdiff.report.removal_table import removal_tables
from bdiff.report.runs import JOBS, PAGE, read
from bdiff.report.shields import shields
from bdiff.report.summary import summary, summary_table
from bdiff.report.table import boxed, metrics_table
from bdiff.store import artifacts
from bdiff.store.ledger import config_key


def run(words: list[str]) -> int:
    """Execute `bdiff run` with these arguments; return its exit code."""
    words = heed_quiet(words)
    # argparse would print many lines of usage; unknown flags are reported in one line instead.
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_intermixed_args(words)
    except argparse.ArgumentError as error:
        raise RequestError(f"{error}: see bdiff run --help") from error
    flags = [word for word in unknown if word.startswith("-")]
    if flags:
        raise RequestError(f"{flags[0]} is not an option of bdiff run: see bdiff run --help")
    if args.config_name or args.config_path:
        raise RequestError("bdiff has one primary config: add a folder of yamls with --config-dir")
    overrides = with_folder([normal(word) for word in args.overrides], args.config_dir)
    if args.multirun:
        overrides = written_out(overrides)
    options = [word for word in words if word not in args.overrides]
    asks = args.cfg or args.info or args.shell_completion or args.hydra_help or args.help
    checked = watched() and not asks  # a job, by the sweep that has started it
    configs = [] if args.shell_completion or checked else jobs(overrides, args.multirun)
    package = args.package and args.package.partition("@")[0]
    if args.cfg and package and configs and OmegaConf.select(configs[0], package) is None:
        raise RequestError(f"--package {args.package} is not part of the config: see bdiff run --cfg {args.cfg}")
    if asks:
        with suppress(*([SystemExit] if args.help else [])):  # raised by Hydra at the end
            compose_and(
                lambda config: None, options, shared_alike(overrides) if args.multirun and configs else overrides
            )
        if args.help:
            explain(configs[0], overrides, args.multirun)
        return DONE
    if any(config.runtime.plan for config in configs):
        plans(configs)
        return DONE
    return sweep(configs, options, overrides) if args.multirun else single(options, overrides)


def plans(configs: list[DictConfig]) -> None:
    """Print what the jobs would reuse and do."""
    print_plans(terminal(), [settled(config) for config in configs], labels(configs))


def heed_quiet(words: list[str]) -> list[str]:
    """Return `words` without --quiet, after which the terminal shows warnings and results alone."""
    console.quiet_progress = "--quiet" in words
    return [word for word in words if word != "--quiet"]


def explain(config: DictConfig, overrides: list[str], multirun: bool) -> None:
    """Print the settings of every option that the overrides choose, with their defaults."""
    choices, out = config.hydra.runtime.choices, terminal()
    groups = [word.partition("=")[0] for word in overrides if word.partition("=")[0] in choices]
    plain = [word for word in overrides if word.startswith((*(f"{group}=" for group in groups), f"{SEARCHPATH}="))]
    base = jobs(plain, multirun)[0]
    for group in groups:
        if found := settings_of(base, group):
            out.print(settings_table(f"{group}={choices[group]}", found, sys.stdout.isatty()))


def scratch_folder() -> Path | None:
    """Return a folder for this process, removed at its end; None in the first of several processes.

    That one alone writes a run folder and prints.
    """
    if int(os.environ.get("RANK", 0)) == 0:
        return None
    scratch = tempfile.mkdtemp(prefix="bdiff-rank-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return Path(scratch)


def single(options: list[str], overrides: list[str]) -> int:
    """Run one job in this process, and print its numbers."""
    if scratch := scratch_folder():
        overrides = [*overrides, f"hydra.run.dir={quoted(scratch)}"]
    records: list[dict[str, Any]] = []
    errors: list[Exception] = []

    def task(config: DictConfig) -> None:
        from bdiff.launch.job import hydra_job

        try:
            records.append(hydra_job(config))
        except (RequestError, RunError) as error:  # hidden from Hydra, which would print it in its own format
            errors.append(error)

    compose_and(task, options, overrides)
    if errors:
        raise errors[0]
    if not scratch:
        closing(records[0])
    return DONE


def sweep(configs: list[DictConfig], options: list[str], overrides: list[str]) -> int:
    """Run a sweep's jobs with Hydra's launcher, show them, and print one table of all."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RequestError("a sweep starts its own processes: use hydra/launcher= with -m instead of torchrun")
    if twice := repeated_values(overrides):
        raise RequestError(*twice)
    from bdiff.launch.job import examine_folder

    folder = Path(configs[0].hydra.sweep.dir)
    examine_folder(folder, (JOBS, PAGE), "multirun.yaml", "sweep", "hydra.sweep.dir")
    named: dict[str, str] = {}
    for key, label in zip(map(config_key, configs), labels(configs), strict=True):
        if key in named:
            raise RequestError(
                f"{named[key]!r} and {label!r} are the same job: they differ only in settings without effect on numbers"
            )
        named[key] = label
    sweep_id = f"{os.getpid()}-{time.time_ns()}"
    board = Board(named, ledger_of(configs[0]), sweep_id)
    left = sum(row.state != BEFORE for row in board.rows())  # also reports a damaged ledger before a job is started
    overrides = shared_alike(overrides)
    of_sweep = [f"+hydra.job.env_set.{name}={value}" for name, value in ((SWEEP, sweep_id), (TO_RUN, left))]
    try:
        with board.shown():
            compose_and(carry_out, options, [*overrides, f"hydra.sweep.dir={quoted(folder)}", *of_sweep])
        intact = board.close(terminal())
    except RequestError as error:
        if not begun(board):
            raise
        raise RunError("; ".join(error.problems)) from error
    print(f"report: {page(board, folder)}")
    return DONE if intact else FAILED


def begun(board: Board) -> bool:
    """Return whether any of a sweep's jobs has been started by it, in any process."""
    try:
        return any(row.state not in (WAITING, BEFORE) for row in board.rows())
    except RequestError:  # the ledger was intact when the sweep began
        return True


def page(board: Board, folder: Path) -> Path:
    """Write the folders of a sweep's jobs and its report.html to the sweep's folder; return the path of the page."""
    from bdiff.report.page import write_sweep_page

    folders = [row.folder for row in board.rows() if row.folder]
    artifacts.write_json(folder / JOBS, [os.path.relpath(job, folder) for job in folders])
    return write_sweep_page(folders, folder / PAGE, f"sweep of {len(board.jobs)} jobs")


def labels(configs: list[DictConfig]) -> list[str]:
    """Return labels that distinguish the jobs of a sweep: the overrides that differ, or a single job's name."""
    overrides = [list(config.hydra.overrides.task) for config in configs]
    shared = set(overrides[0]).intersection(*overrides)
    own = [" ".join(word for word in words if word not in shared) for words in overrides]
    return [word or config.name for word, config in zip(own, configs, strict=True)]


def compose_and(task: Callable[[DictConfig], None], options: list[str], overrides: list[str]) -> None:
    """Compose the request with Hydra and pass its jobs to `task`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing them
    sys.argv = ["bdiff", *options, *overrides]
    started = False

    def first(config: DictConfig) -> None:
        nonlocal started
        started = True
        task(config)

    register()
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{PACKAGE}", config_name="config")(first)()
    except BrokenPipeError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        # incompatible flags, a run folder that cannot be created
        raise (RunError if started else RequestError)(one_line(error)) from error


def terminal() -> Screen:
    """Return the console for results; wide if there is no terminal."""
    return Screen(width=None if sys.stdout.isatty() else 160)


def closing(record: dict[str, Any]) -> None:
    """Print the numbers of a finished job, what they say, and where to find more."""
    out = terminal()
    out.print(metrics_table(record))
    run, here = read(folder := Path(record["folder"])), Path.cwd()
    for sheet in shields([run], []) + removal_tables(run.metrics):
        out.print(boxed(sheet))
    out.print(summary_table(summary(run)))
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    page = (folder / PAGE).exists()
    out.print(f"page      {shown / PAGE}" if page else f"folder    {shown}", soft_wrap=True)
