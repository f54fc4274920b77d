"""The command line. It hands over to Hydra, and imports no torch before a request has been found sound."""

import argparse
import atexit
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bdiff import __version__
from bdiff.errors import RequestError, RunError

if TYPE_CHECKING:
    from omegaconf import DictConfig

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

HELP = f"""bdiff {__version__}: backdoors in diffusion models, trained, measured and defended against

usage: bdiff run [-m] [key=value ...]

  bdiff run                             BadDiffusion on the digits that come with the package
  bdiff run data=cifar10                the same on CIFAR-10, from google/ddpm-cifar10-32
  bdiff run attack=none                 the clean baseline
  bdiff run -m trigger=box,stop_sign target=hat,corner     a sweep
  bdiff run --cfg job                   print the config that would be run
  bdiff run --help                      the options of every group
  bdiff run -sc install=bash            shell completion: eval "$(bdiff run -sc install=bash)"

  bdiff --help, bdiff --version

Set BDIFF_DEBUG=1 for tracebacks."""


def main() -> None:
    """Entry point of the `bdiff` script."""
    try:
        code = command(sys.argv[1:])
    except KeyboardInterrupt:
        print("\nbdiff: interrupted; the same command goes on from where it was", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


def command(words: list[str]) -> int:
    """Carry out one command line and return its exit code."""
    match words:
        case [] | ["-h" | "--help" | "help"]:
            print(HELP)
            return DONE
        case ["--version" | "-V"]:
            print(f"bdiff {__version__}")
            return DONE
        case ["-sc" | "--shell-completion", *_]:  # what the installed completion calls
            return guarded(lambda: hydra_run(words)) if within_run() else DONE
        case ["run", *rest]:
            return guarded(lambda: hydra_run(rest))
    return complain([f"{words[0]} is no command: write bdiff run, bdiff --help or bdiff --version"])


def guarded(work: Callable[[], int | None]) -> int:
    """Do `work` and turn whatever goes wrong into a few lines and an exit code."""
    debug = "BDIFF_DEBUG" in os.environ
    try:
        return work() or DONE
    except RequestError as error:
        if debug:
            traceback.print_exc()
        return complain(error.problems)
    except RunError as error:
        if debug:
            traceback.print_exc()
        print(f"bdiff: failed: {error}", file=sys.stderr)
        return FAILED


def complain(problems: tuple[str, ...] | list[str], most: int = 5) -> int:
    """Print what is wrong with a request, in at most `most` lines."""
    shown = list(problems[:most])
    if len(problems) > most:
        shown = [*problems[: most - 1], f"and {len(problems) - most + 1} more problems"]
    for line in shown:
        print(line if line.startswith("  ") else f"bdiff: {line}", file=sys.stderr)
    return WRONG


def hydra_run(words: list[str]) -> int:
    """Check the request, then let Hydra compose and start its jobs."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # argparse would print its usage over many lines; whatever starts with a dash and is no flag of Hydra's is told.
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise RequestError(f"{error}: see bdiff run --help") from error
    flags = [word for word in unknown if word.startswith("-")]
    if flags:
        raise RequestError(f"{flags[0]} is no option of bdiff run: see bdiff run --help")
    starts = not (args.cfg or args.info or args.shell_completion or args.hydra_help or args.help)
    overrides = [normal(word) for word in args.overrides]
    options = [word for word in words if word not in args.overrides]
    if not args.shell_completion:
        from bdiff.request import jobs

        jobs(overrides, args.multirun)
    helper = starts and int(os.environ.get("RANK", 0)) > 0
    if helper:  # only the first process of several leaves a run folder and prints
        scratch = tempfile.mkdtemp(prefix="bdiff-rank-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        overrides += [f"hydra.run.dir={scratch}", f"hydra.sweep.dir={scratch}"]
    sys.argv = ["bdiff", *options, *overrides]
    records: list[dict[str, Any]] = []
    codes = [DONE]

    @hydra.main(version_base="1.3", config_path="pkg://bdiff.conf", config_name="config")
    def task(config: "DictConfig") -> None:
        from bdiff.job import job

        # A job that fails says so and is counted; the other jobs of a sweep go on.
        codes.append(guarded(lambda: records.append(job(config))))

    try:
        task()
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        from bdiff.request import one_line  # flags that do not go together, a run folder that cannot be made

        raise RequestError(one_line(error)) from error
    if records and not helper:
        closing(records)
    return next((code for code in codes if code), DONE)


def closing(records: list[dict[str, Any]]) -> None:
    """Print the numbers of the jobs that came to their end, and where to look further."""
    from rich.console import Console

    from bdiff.report.table import labels, metrics_table

    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(metrics_table(records))
    for label, record in zip(labels(records), records, strict=True):
        reused = f" (reused: {', '.join(record['reused'])})" if record["reused"] else ""
        console.print(f"{label}: {record['folder']}{reused}", soft_wrap=True, highlight=False)


def normal(word: str) -> str:
    """Return an override with the authors' spelling of an option (BOX_14, CORNER) in ours (box_14, corner)."""
    key, equals, value = word.partition("=")
    return f"{key}={value.lower()}" if equals and key in ("trigger", "target", "attack", "data") else word


def within_run() -> bool:
    """Hide the word `run` from Hydra's completion, which knows no subcommands; where it is not typed yet, offer it."""
    line = os.environ.get("COMP_LINE")
    if line is None:  # the completion is being installed
        return True
    start, run, rest = line.partition(" run ")
    if not run:
        print("run")
        return False
    os.environ["COMP_LINE"] = f"{start} {rest}"
    os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", len(line))) - len("run ")))
    return True
