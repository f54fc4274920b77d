"""`bdiff zoo`: a benchmark of detections: how well each finds the backdoored models of a zoo, and their triggers."""

from bdiff.cli.shared import Parser, deliver, drawn, found_below, fraction, over_runs
from bdiff.common.errors import RequestError
from bdiff.report.benchmark import benchmark, detecting, judged, unfinished
from bdiff.report.carried_over import carried_over

EXAMPLES = """
  bdiff zoo outputs                                         all runs with a detection below outputs
  bdiff zoo outputs/zoo --score relative_score              by scores relative to each model's own clean samples
  bdiff zoo outputs/zoo --score specific_score --rate 0.05  with a threshold at that false-positive rate
  bdiff zoo outputs/zoo --format latex --out zoo.tex --figure zoo.png"""


def parser() -> Parser:
    """Return the parser of `bdiff zoo`."""
    made = over_runs("zoo", __doc__, EXAMPLES, "runs with a detection", figure="every model's score")
    made.add_argument(
        "--score", default="score", metavar="NAME",
        help="the score to judge by, such as relative_score (relative to the model's clean samples); default: score",
    )  # fmt: skip
    made.add_argument(
        "--rate", type=fraction, metavar="RATE",
        help="take the threshold that a clean model reaches at this rate at most, such as 0.05, and show how that of "
        "the other data sets does on each; default: three standard deviations above the clean models' mean",
    )  # fmt: skip
    return made


def zoo(words: list[str]) -> None:
    """Execute `bdiff zoo`. Raises RequestError for invalid arguments, and if no run with a detection is done."""
    args = parser().parse_args(words)
    if args.rate and args.format == "csv":
        raise RequestError("csv holds one table, and --rate adds a second: leave it out, or take another format")
    runs = found_below(args.folders, detecting, "a detection", ": use bdiff run defense=...")
    detections, broken = judged(runs, args.score, args.rate), unfinished(runs)
    further = [carried_over(detections, args.rate)] if args.rate else []
    deliver([benchmark(detections, broken), *further], args.format, args.out)
    if args.figure:
        from bdiff.report import detection_figure  # imports matplotlib, which is slow

        drawn(args.figure, lambda path: detection_figure.scores(path, detections))
