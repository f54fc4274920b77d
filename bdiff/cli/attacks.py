"""`bdiff attacks`: attacks by samplers: which opens each backdoor, whether it was expected to, and the leak."""

from pathlib import Path

from bdiff.cli.table import Parser, deliver, drawn, known_keys, names, picture
from bdiff.common.errors import RequestError
from bdiff.report.attacks import ASR, CLASS_ASR, attack_sheet, attempts
from bdiff.report.runs import find

EXAMPLES = """
  bdiff attacks outputs                                     all runs below outputs whose attack has triggered samples
  bdiff attacks outputs/attacks --format latex --out attacks.tex --figure attacks.png"""


def parser() -> Parser:
    """Return the parser of `bdiff attacks`."""
    parser = Parser("attacks", __doc__, EXAMPLES)
    parser.add_argument("folders", nargs="+", type=Path, metavar="folder", help="where to look for runs")
    parser.add_argument(
        "--rows",
        type=names,
        metavar="KEY,KEY",
        help="groups or dotted keys that tell attacks apart (default: those in which the runs differ)",
    )
    parser.add_argument(
        "--figure", type=picture, metavar="FILE", help="draw samples of every cell to a file, as png, pdf or svg"
    )
    return parser


def attacks(words: list[str]) -> None:
    """Execute `bdiff attacks`. Raises RequestError for invalid arguments, and if no run has triggered samples."""
    args = parser().parse_args(words)
    if wrong := [f"{folder} is not a folder" for folder in args.folders if not folder.is_dir()]:
        raise RequestError(*wrong)
    runs = [run for run in find(args.folders) if not run.done or {ASR, CLASS_ASR} & {*run.metrics}]
    if not any(run.done for run in runs):
        more = f" ({len(runs)} did not finish)" if runs else ""
        raise RequestError(f"no run with triggered samples is done below {', '.join(map(str, args.folders))}{more}")
    known_keys(runs, args.rows or [])
    keys, tried = attempts(runs, args.rows)
    deliver([attack_sheet(keys, tried)], args.format, args.out)
    if args.figure:
        from bdiff.report import attack_figure  # imports matplotlib, which is slow

        drawn(args.figure, lambda path: attack_figure.samples(path, tried))
