"""`bdiff table <name> --run`: run the sweeps of a table of conf/experiment/table, then show the table."""

from functools import partial

from omegaconf import DictConfig

from bdiff.cli.main import DONE, FAILED, command, guarded
from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.config.sweeps import readable, written_out
from bdiff.config.tables import Table
from bdiff.config.words import quoted


def make(tables: list[Table], words: list[str]) -> int:
    """Run the sweeps of `tables` with the options `words`, show each table, and return the exit code.

    A failure is reported, and the others are still run and shown; with runtime.plan, nothing is. Raises RequestError,
    before anything is run, with the problems of all jobs.
    """
    asked = [requests(table, words) for table in tables]
    checked([[*map(first_value, overrides)] for sweeps in asked for overrides in sweeps])  # most problems show quickly
    composed = [checked(sweeps) for sweeps in asked]
    if planned := [config for sweeps in composed for configs in sweeps for config in configs if config.runtime.plan]:
        from bdiff.cli.run import plans

        plans(planned)
        return DONE
    codes: list[int] = []
    for table, sweeps, configs in zip(tables, asked, composed, strict=True):
        codes += map(start, configs, sweeps)
        codes.append(show(table))
    return FAILED if any(codes) else DONE


def requests(table: Table, words: list[str]) -> list[list[str]]:
    """Return the overrides of each of a table's sweeps; `words` override its own if it has their keys."""
    found = []
    for name, folder in table.sweeps.items():
        own = [f"experiment={name}", f"hydra/launcher={table.launcher}", f"hydra.sweep.dir={quoted(folder)}"]
        lacking = tuple(f"{key}=" for key in table.lacks.get(name, ()))
        found.append(written_out([*own, *(word for word in words if not word.startswith(lacking))]))
    return found


def first_value(word: str) -> str:
    """Return an override with only the first of its values."""
    override = readable(word)
    if override is None or not override.is_discrete_sweep():
        return word
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def checked(sweeps: list[list[str]]) -> list[list[DictConfig]]:
    """Return the configs of each sweep's jobs. Raises RequestError with the problems of all."""
    found: list[list[DictConfig]] = []
    problems: list[str] = []
    for overrides in sweeps:
        try:
            found.append(jobs(overrides, multirun=True))
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(*dict.fromkeys(problems))
    return found


def start(configs: list[DictConfig], overrides: list[str]) -> int:
    """Run one sweep and return its exit code."""
    from bdiff.cli.run import sweep

    return guarded(partial(sweep, configs, ["-m"], overrides))


def show(table: Table) -> int:
    """Show a table and write its files; return 0 on success."""
    codes = [command(view) for view in table.views]
    return FAILED if any(codes) else DONE
