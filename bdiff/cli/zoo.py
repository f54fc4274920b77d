"""`bdiff zoo`: audited models as a benchmark: how well each audit finds the backdoored ones and their triggers."""

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
  bdiff zoo outputs                                         all audited runs below outputs
  bdiff zoo outputs/zoo --format latex --out zoo.tex --figure zoo.png"""


def parser() -> Parser:
    """Return the parser of `bdiff zoo`."""

    def picture(word: str) -> Path:
        if Path(word).suffix not in PICTURES:
            raise argparse.ArgumentTypeError(f"{word} does not end in {', '.join(PICTURES)}")
        return Path(word)

    told = Parser("zoo", __doc__, EXAMPLES)
    told.add_argument("folders", nargs="+", type=Path, metavar="folder", help="where to look for audited runs")
    told.add_argument(
        "--figure", type=picture, metavar="FILE", help="draw every model's score there, as png, pdf or svg"
    )
    return told


def zoo(words: list[str]) -> None:
    """Carry out `bdiff zoo`. Raises RequestError for wrong words, and where no audited run is done."""
    args = parser().parse_args(words)
    if wrong := [f"{folder} is no folder" for folder in args.folders if not folder.is_dir()]:
        raise RequestError(*wrong)
    runs = find(args.folders)
    audits, broken = judged(runs), unfinished(runs)
    if not audits:
        more = f" ({len(broken)} with a defense did not come to their end)" if broken else ""
        raise RequestError(f"no audited run is done below {', '.join(map(str, args.folders))}{more}: "
                       "bdiff run defense=... makes them")  # fmt: skip
    deliver([benchmark(audits, broken)], args.format, args.out)
    if args.figure:
        draw(audits, args.figure)


def draw(audits: Sequence[Judged], path: Path) -> None:
    """Draw the scores into `path`, and say so where the table may be read by a program: on stderr."""
    from bdiff.report import detection_figure  # here, since it imports matplotlib

    if path.is_dir():
        raise RequestError(f"--figure {path} is a folder: name a file")
    try:
        detection_figure.scores(path, audits)
    except OSError as error:
        raise RequestError(f"--figure {path} cannot be written ({os.strerror(error.errno or 0)})") from error
    print(f"drawn to {path}", file=sys.stderr)
