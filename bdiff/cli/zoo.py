"""`bdiff zoo`: a benchmark of detections: how well each finds the backdoored models of a zoo, and their triggers."""

from pathlib import Path

from bdiff.cli.table import Parser, deliver, drawn, picture
from bdiff.common.errors import RequestError
from bdiff.report.benchmark import benchmark, judged, unfinished
from bdiff.report.runs import find

EXAMPLES = """
  bdiff zoo outputs                                         all runs with a detection below outputs
  bdiff zoo outputs/zoo --format latex --out zoo.tex --figure zoo.png"""


def parser() -> Parser:
    """Return the parser of `bdiff zoo`."""
    parser = Parser("zoo", __doc__, EXAMPLES)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="folder", help="where to look for runs with a detection"
    )
    parser.add_argument(
        "--figure", type=picture, metavar="FILE", help="draw every model's score to a file, as png, pdf or svg"
    )
    return parser


def zoo(words: list[str]) -> None:
    """Execute `bdiff zoo`. Raises RequestError for invalid arguments, and if no run with a detection is done."""
    args = parser().parse_args(words)
    if wrong := [f"{folder} is not a folder" for folder in args.folders if not folder.is_dir()]:
        raise RequestError(*wrong)
    runs = find(args.folders)
    detections, broken = judged(runs), unfinished(runs)
    if not detections:
        more = f" ({len(broken)} with a defense did not finish)" if broken else ""
        raise RequestError(f"no run with a detection is done below {', '.join(map(str, args.folders))}{more}: "
                       "use bdiff run defense=...")  # fmt: skip
    deliver([benchmark(detections, broken)], args.format, args.out)
    if args.figure:
        from bdiff.report import detection_figure  # imports matplotlib, which is slow

        drawn(args.figure, lambda path: detection_figure.scores(path, detections))
