"""`bdiff zoo`: a benchmark of detections: how well each finds the backdoored models of a zoo, and their triggers."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bdiff.cli.table import Parser, deliver
from bdiff.common.errors import RequestError
from bdiff.report.benchmark import Judged, benchmark, judged, unfinished
from bdiff.report.runs import find

PICTURES = (".png", ".pdf", ".svg")

EXAMPLES = """
  bdiff zoo outputs                                         all runs with a detection below outputs
  bdiff zoo outputs/zoo --format latex --out zoo.tex --figure zoo.png"""


def parser() -> Parser:
    """Return the parser of `bdiff zoo`."""

    def picture(word: str) -> Path:
        if Path(word).suffix not in PICTURES:
            raise argparse.ArgumentTypeError(f"{word} does not end in {', '.join(PICTURES)}")
        return Path(word)

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
        draw(detections, args.figure)


def draw(detections: Sequence[Judged], path: Path) -> None:
    """Draw the scores to `path`, and print that on stderr, as stdout is for the table."""
    from bdiff.report import detection_figure  # imports matplotlib, which is slow

    if path.is_dir():
        raise RequestError(f"--figure {path} is a folder: give a file")
    try:
        detection_figure.scores(path, detections)
    except OSError as error:
        raise RequestError(f"--figure {path} cannot be written ({os.strerror(error.errno or 0)})") from error
    print(f"drawn to {path}", file=sys.stderr)
