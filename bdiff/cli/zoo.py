"""`bdiff zoo`: a benchmark of detections: how well each finds the backdoored models of a zoo, and their triggers."""

from bdiff.cli.table import Parser, deliver, drawn, found_below, over_runs
from bdiff.report.benchmark import benchmark, detecting, judged, unfinished

EXAMPLES = """
  bdiff zoo outputs                                         all runs with a detection below outputs
  bdiff zoo outputs/zoo --score relative_score              by scores relative to each model's own clean samples
  bdiff zoo outputs/zoo --format latex --out zoo.tex --figure zoo.png"""


def parser() -> Parser:
    """Return the parser of `bdiff zoo`."""
    made = over_runs("zoo", __doc__, EXAMPLES, "runs with a detection", figure="every model's score")
    made.add_argument(
        "--score", default="score", metavar="NAME",
        help="the score to judge by, such as relative_score (relative to the model's clean samples); default: score",
    )  # fmt: skip
    return made


def zoo(words: list[str]) -> None:
    """Execute `bdiff zoo`. Raises RequestError for invalid arguments, and if no run with a detection is done."""
    args = parser().parse_args(words)
    runs = found_below(args.folders, detecting, "a detection", ": use bdiff run defense=...")
    detections, broken = judged(runs, args.score), unfinished(runs)
    deliver([benchmark(detections, broken)], args.format, args.out)
    if args.figure:
        from bdiff.report import detection_figure  # imports matplotlib, which is slow

        drawn(args.figure, lambda path: detection_figure.scores(path, detections))
