"""The command line. It hands over to Hydra, and does not import torch before a request has been validated."""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bdiff import __version__
from bdiff.common.errors import RequestError, RunError, few
from bdiff.common.places import has_cwd
from bdiff.common.spelling import did_you_mean
from bdiff.launch.process import watched

#: each command's module, which has a function of its name
PLAIN = ("run", "rerun", "audit", "table", "zoo", "attacks", "cost", "shields", "report", "results", "data")
COMMANDS = {name: f"bdiff.cli.{name}" for name in PLAIN}
COMMANDS |= {name: f"bdiff.cli.{name}.command" for name in ("new", "doctor")}
DONE, FAILED, WRONG, INTERRUPTED, CLOSED = 0, 1, 2, 130, 141
PATIENCE = 60  # seconds that a job has to shut down once its sweep has ended

HELP = f"""bdiff {__version__}: train, measure and detect backdoors in diffusion models

usage: bdiff run [-m] [key=value ...]

  bdiff run                       BadDiffusion on the digits of the package
  bdiff run data=cifar10          on CIFAR-10, from google/ddpm-cifar10-32
  bdiff run attack=none           the clean baseline
  bdiff run -m trigger=box,stop_sign target=hat,corner     a sweep
  bdiff rerun <run folder>        the same run again, from its saved config
  bdiff run --quiet               warnings and the result; run.log has the rest
  bdiff run --cfg job             print the config that would be run
  bdiff run --help                the options of every group
  bdiff run -sc install=bash      shell completion: eval what this prints

  bdiff audit <folder or hub id>  is a downloaded model backdoored?

  bdiff table                     run folders as a table
  bdiff table baddiffusion        a paper's rows, our numbers beside them
  bdiff table zoo --run           run all sweeps of a table, then show it
  bdiff zoo outputs               detections, compared over a zoo of models
  bdiff attacks outputs           attacks by samplers: which of them opened
  bdiff cost outputs              training steps until each attack succeeds
  bdiff shields outputs           classifiers behind shields, and controls
  bdiff report outputs --site DIR leaderboards, as a static site
  bdiff results export            a JSON for each run
  bdiff results check FILE        is a result from elsewhere sound?

  bdiff data                      list the datasets, found or missing
  bdiff data prepare cifar10      download, decode, count and preview one
  bdiff new attack my_attack      a plugin package with your own attack
  bdiff doctor                    whether runs would work here, what is missing

  bdiff <command> --help, bdiff --help, bdiff --version

Set BDIFF_DEBUG=1 for tracebacks."""


def main() -> None:
    """Entry point of the `bdiff` script."""
    if watched():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it by default
        threading.Thread(target=end_with_the_sweep, daemon=True).start()
    os.environ["MPLBACKEND"] = "Agg"  # one inherited from a notebook may need a package that is missing
    sys.stdout, sys.stderr = open_stream(sys.stdout), open_stream(sys.stderr)
    try:
        code = guarded(lambda: command(sys.argv[1:]))
        sys.stdout.flush()
    except BrokenPipeError:  # e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = CLOSED
    except OSError as error:  # e.g. standard output is redirected to a full disk
        print(f"bdiff: failed: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except KeyboardInterrupt:
        print("\nbdiff: interrupted; run the same command to resume", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


def open_stream(stream: Any) -> Any:
    """Return an output stream that accepts any text; the null device if the shell has closed it."""
    if stream is None:
        return Path(os.devnull).open("w")
    stream.reconfigure(errors="backslashreplace")  # names may contain characters outside of the terminal's encoding
    return stream


def end_with_the_sweep() -> None:
    """Interrupt this job when the sweep that started it has ended, which closes the pipe on standard input."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)
    os._exit(INTERRUPTED)


def command(words: list[str]) -> int:
    """Execute one command line and return its exit code."""
    match words:
        case [] | ["-h" | "--help" | "help"]:
            print(HELP)
            return DONE
        case ["--version" | "-V"]:
            print(f"bdiff {__version__}")
            return DONE
        case _ if not has_cwd():
            return complain(["the current folder does not exist any more: cd to another"])
        case ["-sc" | "--shell-completion", *_] if not within_run():  # called by the installed completion
            return DONE
        case ["-sc" | "--shell-completion", *_]:
            return guarded(lambda: called("run")(words))
        case [name, *rest] if name in COMMANDS:
            return guarded(lambda: called(name)(rest))
    meant = did_you_mean(words[0], COMMANDS)
    return complain([f"{words[0]} is not a command{meant or ': use bdiff run, bdiff --help or bdiff --version'}"])


def called(name: str) -> Callable[[list[str]], int | None]:
    """Return the function of a command, whose module is imported by that alone."""
    found: Callable[[list[str]], int | None] = getattr(import_module(COMMANDS[name]), name)
    return found


def guarded(work: Callable[[], int | None]) -> int:
    """Call `work` and convert any error to a few lines and an exit code."""
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
    except SystemExit as exit_request:  # raised by argparse and Hydra
        return exit_request.code if isinstance(exit_request.code, int) else DONE
    except BrokenPipeError:
        raise
    except Exception as error:  # a full disk, or a bug
        if debug:
            traceback.print_exc()
        line = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"bdiff: failed: {line} (BDIFF_DEBUG=1 shows where)", file=sys.stderr)
        return FAILED


def complain(problems: Sequence[str]) -> int:
    """Print the problems of a request, in a few lines."""
    for line in few(problems, 5, "and {} more problems"):
        print(line if line.startswith("  ") else f"bdiff: {line}", file=sys.stderr)
    return WRONG


def within_run() -> bool:
    """Hide the word `run` from Hydra's completion, which has no subcommands; offer it if it is not typed yet.

    A folder of --config-dir is passed in the form that its completion reads.
    """
    line = os.environ.get("COMP_LINE")
    if line is None:  # the completion is being installed
        return True
    start, run, rest = line.partition(" run ")
    if not run:
        print("run")
        return False
    rest = re.sub(r"(^| )(?:--config-dir|-cd)[= ](\S+)", r"\1hydra.searchpath=[\2]", rest)
    os.environ["COMP_LINE"] = f"{start} {rest}"
    os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", len(line))) - len("run ")))
    return True
