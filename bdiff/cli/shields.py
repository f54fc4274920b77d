"""`bdiff shields`: a classifier's accuracy behind shields, over many runs with a purification or a certification."""

from pathlib import Path

from bdiff.cli.table import Parser, deliver, known_keys, names
from bdiff.common.errors import RequestError
from bdiff.report.runs import find
from bdiff.report.shields import shielded
from bdiff.report.shields import shields as sheets_of

EXAMPLES = """
  bdiff shields outputs                                     all runs with a shield below outputs
  bdiff shields outputs --rows attack,defense.t --format latex --out shields.tex"""


def parser() -> Parser:
    """Return the parser of `bdiff shields`."""
    parser = Parser("shields", __doc__, EXAMPLES)
    parser.add_argument("folders", nargs="+", type=Path, metavar="folder", help="where to look for runs with a shield")
    parser.add_argument(
        "--rows",
        type=names,
        metavar="KEY,KEY",
        help="groups or dotted keys, the shield's rows for each combination (default: those in which the runs differ)",
    )
    return parser


def shields(words: list[str]) -> None:
    """Execute `bdiff shields`. Raises RequestError for invalid arguments, and if no run with a shield is done.

    Purified and certified runs have a table each.
    """
    args = parser().parse_args(words)
    if wrong := [f"{folder} is not a folder" for folder in args.folders if not folder.is_dir()]:
        raise RequestError(*wrong)
    runs = shielded(find(args.folders))
    if not any(run.done for run in runs):
        more = f" ({len(runs)} did not finish)" if runs else ""
        raise RequestError(f"no run with a shield is done below {', '.join(map(str, args.folders))}{more}: "
                       "use bdiff run defense=purification or defense=certification")  # fmt: skip
    known_keys(runs, args.rows or [])
    sheets = sheets_of(runs, args.rows)
    if args.format == "csv" and len(sheets) > 1:
        raise RequestError("csv holds one table: give folders with only purified runs, or only certified ones")
    deliver(sheets, args.format, args.out)
