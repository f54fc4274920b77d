"""`bdiff report`: a static site of leaderboards over run folders, and over results from elsewhere."""

import os
from pathlib import Path

from bdiff.cli.table import Parser
from bdiff.common.errors import RequestError
from bdiff.report.cells import cells_of, read_cells
from bdiff.report.runs import find

EXAMPLES = """
  bdiff report outputs --site outputs/site                  all runs below outputs
  bdiff report outputs --site outputs/site --results theirs a.json    and results from elsewhere
  bdiff report outputs --site public --copy                 with the runs' pages in it, to be published"""


def parser() -> Parser:
    """Return the parser of `bdiff report`."""
    parser = Parser("report", __doc__, EXAMPLES, tables=False)
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="folder", help="where to look for runs (default: outputs)"
    )
    parser.add_argument("--site", type=Path, metavar="DIR", required=True, help="where to write the site")
    parser.add_argument(
        "--results",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="JSONs from elsewhere, or folders of them (bdiff results check)",
    )
    parser.add_argument("--copy", action="store_true", help="copy the runs' pages into the site, instead of links")
    parser.add_argument("--title", default="Backdoors and defenses", help="default: %(default)s")
    return parser


def report(words: list[str]) -> None:
    """Execute `bdiff report`. Raises RequestError for invalid arguments or JSONs, and if there are no results."""
    args = parser().parse_args(words)
    folders = args.folders or ([] if args.results else [Path("outputs")])
    if wrong := [f"{folder} is not a folder" for folder in folders if not folder.is_dir()]:
        raise RequestError(*wrong)
    theirs, without = read_cells(args.results)
    cells = [*cells_of(find(folders)), *theirs]
    if not cells:
        raise RequestError(
            f"no runs and no results of a cell found in {', '.join(map(str, [*folders, *args.results]))}"
        )
    from bdiff.report.site import write_site  # Jinja is slow to import

    try:
        counts = write_site(args.site, cells, args.title, args.copy)
    except OSError as error:
        raise RequestError(f"--site {args.site} cannot be written ({os.strerror(error.errno or 0)})") from error
    print(*without, sep="\n", end="\n" if without else "")
    elsewhere = f", {counts['elsewhere']} of them from elsewhere" if theirs else ""
    print(f"{args.site / 'index.html'}: {counts['cells']} cells of {counts['results']} results{elsewhere}")
