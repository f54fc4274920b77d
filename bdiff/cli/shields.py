"""`bdiff shields`: a classifier's accuracy behind shields, over many runs with a purification or a certification."""

from bdiff.cli.shared import Parser, deliver, found_below, known_keys, over_runs
from bdiff.common.errors import RequestError
from bdiff.report.shields import shielded
from bdiff.report.shields import shields as sheets_of

EXAMPLES = """
  bdiff shields outputs                                     all runs with a shield below outputs
  bdiff shields outputs --rows attack,defense.t --format latex --out shields.tex"""


def parser() -> Parser:
    """Return the parser of `bdiff shields`."""
    return over_runs("shields", __doc__, EXAMPLES, "runs with a shield", ", the shield's rows for each combination")


def shields(words: list[str]) -> None:
    """Execute `bdiff shields`. Raises RequestError for invalid arguments, and if no run with a shield is done.

    Purified and certified runs have a table each.
    """
    args = parser().parse_args(words)
    hint = ": use bdiff run attack=diff2 defense=purification or defense=certification"
    runs = found_below(args.folders, shielded, "a shield", hint)
    known_keys(runs, args.rows or [])
    sheets = sheets_of(runs, args.rows)
    if args.format == "csv" and len(sheets) > 1:
        raise RequestError("csv holds one table: give folders with only purified runs, or only certified ones")
    deliver(sheets, args.format, args.out)
