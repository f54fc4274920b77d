"""`bdiff attacks`: attacks by samplers: which opens each backdoor, whether it was expected to, and the leak."""

from bdiff.cli.shared import Parser, deliver, drawn, found_below, known_keys, over_runs
from bdiff.report.attacks import ASR, CLASS_ASR, attack_sheet, attempts
from bdiff.report.runs import measured

EXAMPLES = """
  bdiff attacks outputs                                     all runs below outputs whose attack has triggered samples
  bdiff attacks outputs/attacks --format latex --out attacks.tex --figure attacks.png"""


def parser() -> Parser:
    """Return the parser of `bdiff attacks`."""
    return over_runs("attacks", __doc__, EXAMPLES, "runs", " that tell attacks apart", "samples of every cell")


def attacks(words: list[str]) -> None:
    """Execute `bdiff attacks`. Raises RequestError for invalid arguments, and if no run has triggered samples."""
    args = parser().parse_args(words)
    runs = found_below(args.folders, lambda runs: measured(runs, ASR, CLASS_ASR), "triggered samples")
    known_keys(runs, args.rows or [])
    keys, tried = attempts(runs, args.rows)
    deliver([attack_sheet(keys, tried)], args.format, args.out)
    if args.figure:
        from bdiff.report import attack_figure  # imports matplotlib, which is slow

        drawn(args.figure, lambda path: attack_figure.samples(path, tried))
