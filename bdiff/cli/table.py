"""`bdiff table`: run folders as a table, an experiment's rows next to published ones, or a table that it runs."""

import argparse
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bdiff.cli.shared import Parser, deliver, known_keys, names
from bdiff.common.errors import RequestError
from bdiff.common.spelling import did_you_mean, nearest
from bdiff.config.compose import jobs
from bdiff.config.keys import plain, resolved
from bdiff.config.options import group_options
from bdiff.config.sweeps import readable
from bdiff.config.tables import table_names, table_of
from bdiff.config.words import normal
from bdiff.report.pivot import in_order, ordered, pivot
from bdiff.report.published import Row, beside
from bdiff.report.runs import Run, find, flat
from bdiff.report.sheet import Sheet

EXAMPLES = """
  bdiff table                                               all runs below outputs
  bdiff table --rows trigger,target --cols attack.poison_rate --metrics asr
  bdiff table outputs/multiruns/2026-01-31 --format latex --out table.tex
  bdiff table baddiffusion                                  rows of conf/experiment/baddiffusion and published numbers
  bdiff table clipping --rows trigger,target --cols sample.clip    the same runs, like any others
  bdiff table zoo --run                                     run the sweeps of conf/experiment/table/zoo, then show them
  bdiff table zoo --profile paper --run hydra/launcher=slurm runtime.threads=1"""


def parser() -> Parser:
    """Return the parser of `bdiff table`."""
    parser = Parser("table", __doc__, EXAMPLES)
    parser.add_argument(
        "what",
        nargs="*",
        metavar="folder|experiment|table",
        help="where to look for runs (default: outputs); a folder of conf/experiment, or a row of it; a folder of "
        f"conf/experiment/table: {', '.join(table_names())}",
    )
    parser.add_argument(
        "--rows",
        type=names,
        metavar="KEY,KEY",
        help="groups or dotted keys, a row per combination (default: those in which the runs differ)",
    )
    parser.add_argument("--cols", type=names, metavar="KEY,KEY", help="the same for columns (default: none)")
    parser.add_argument(
        "--metrics",
        type=names,
        metavar="NAME,NAME",
        help="asr is short for suspect/asr (default: all of the suspect model)",
    )
    parser.add_argument(
        "--run",
        nargs="*",
        metavar="KEY=VALUE",
        help="run the sweeps of a table first, all with these options; finished jobs are not repeated",
    )
    parser.add_argument("--profile", help="of a table: in miniature or as published (default: its first)")
    return parser


def table(words: list[str]) -> int | None:
    """Execute `bdiff table`. Raises RequestError for invalid arguments or if there are no runs."""
    args = parser().parse_args(words)
    if args.run is not None or args.profile or (args.what and all(is_table(word) for word in args.what)):
        return named_tables(args)
    options = [name for name in group_options()["experiment"] if not name.startswith("table/")]
    named = {word: rows_of(word, options) for word in args.what}
    folders = [Path(word) for word, rows in named.items() if not rows]
    papers = sorted({name.partition("/")[0] for name in options})
    known = [*papers, *table_names(), *options]
    wrong = [f"{folder} is neither a folder nor an experiment{did_you_mean(str(folder), known)} "
             f"(experiments: {', '.join(papers)}; tables: {', '.join(table_names())})"
             for folder in folders if not folder.exists()]  # fmt: skip
    if wrong:
        raise RequestError(*wrong)
    rows = [name for found in named.values() for name in found]
    places = folders or [Path("outputs")]
    runs = find(places)
    if rows:
        runs = [run for run in runs if run.value("experiment") in rows]
    pivoted = args.rows is not None or args.cols is not None
    if not runs and (pivoted or not rows):
        of = f" of {', '.join(word for word in named if named[word])}" if rows else ""
        raise RequestError(f"no runs{of} found: no folder with metrics.json and config.yaml below "
                       f"{', '.join(map(str, places))}")  # fmt: skip
    if rows and not pivoted:
        sheet = published_sheet(rows, runs, args.metrics)
    else:
        known_keys(runs, [*(args.rows or []), *(args.cols or [])])
        sheet = pivot(runs, args.rows, args.cols or [], chosen(args.metrics, runs, set()))
    deliver([sheet], args.format, args.out)
    return None


def is_table(word: str) -> bool:
    """Return whether a word names a table that can be run; a folder of that name has precedence."""
    return word in table_names() and not Path(word).exists()


def named_tables(args: argparse.Namespace) -> int:
    """Show the tables that `args` name, after their sweeps with --run. Returns the exit code."""
    from bdiff.cli.make_table import make, show

    if not args.what:
        raise RequestError("give the table before the options: bdiff table <name> --run [key=value ...]")
    if args.format != "rich" or any((args.out, args.rows, args.cols, args.metrics)):
        raise RequestError("--run and --profile use the table's own layout: give its folder for another layout")
    given = [readable(normal(word)) for word in args.run or [] if word.startswith("paths.outputs=")]
    outputs = ["outputs", *(str(word.value()) for word in given if word)][-1]  # the last counts, as for Hydra
    tables = {name: table_of(name, args.profile, Path(outputs)) for name in args.what}
    if args.run is not None:
        return make([*tables.values()], args.run)
    if lacking := [name for name, one in tables.items() if one.sweeps and not one.folder.is_dir()]:
        profile = f" --profile {args.profile}" if args.profile else ""
        raise RequestError(*(f"{tables[name].folder} is not a folder: bdiff table {name}{profile} --run creates it; if "
                             "it was run with paths.outputs=, give that again" for name in lacking))  # fmt: skip
    return max(map(show, tables.values()))


def rows_of(word: str, options: list[str]) -> list[str]:
    """Return the experiment rows that a word names: a single row, or all rows of a folder."""
    own = [name for name in options if name == word or name.startswith(f"{word}/")]
    return [name for (name,) in ordered((name,) for name in own)]


def published_sheet(names: list[str], runs: list[Run], metrics: list[str] | None) -> Sheet:
    """Return the rows `names` of conf/experiment with their runs."""
    rows = []
    for name in names:
        own = [run for run in runs if run.value("experiment") == name]
        published: Any = OmegaConf.to_container(OmegaConf.load(group_options()["experiment"][name]))
        rows.append((name, published["published"], own, settings(name) if own else {}))
    papers = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    lone = f"{papers[0]}/" if len(papers) == 1 else ""
    theirs = {metric for _, published, *_ in rows for metric in published["metrics"]}
    shown_metrics = chosen(metrics, runs, theirs) if metrics else None
    return beside([Row(name.removeprefix(lone), *rest) for name, *rest in rows],
                  f"{', '.join(papers)}: ours beside the published figures", shown_metrics)  # fmt: skip


def settings(row: str) -> dict[str, Any]:
    """Return the settings of a request for an experiment row, by dotted keys and groups."""
    (config,) = jobs([f"experiment={row}"], multirun=False)
    return flat(plain(resolved(config))) | dict(config.hydra.runtime.choices)


def chosen(words: list[str] | None, runs: list[Run], more: set[str]) -> list[str]:
    """Return full names of the given metrics, or all of the suspect model; `more` are valid besides the runs'."""
    known = in_order({name for run in runs for name in run.metrics} | more)
    if words is None:
        return [name for name in known if name.startswith("suspect/")] or ["suspect/asr"]
    full = [word if "/" in word else f"suspect/{word}" for word in words]
    wrong = [f"--metrics: {word} {nearest(word, [name.removeprefix('suspect/') for name in known])}"
             for word, name in zip(words, full, strict=True) if known and name not in known]  # fmt: skip
    if wrong:
        raise RequestError(*wrong)
    return full
