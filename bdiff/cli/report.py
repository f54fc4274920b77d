"""`bdiff report`: leaderboards over run folders and results from elsewhere, as tables and as a static site."""

from pathlib import Path

from bdiff.cli.shared import Parser, deliver, existing_folders, written
from bdiff.common.errors import RequestError
from bdiff.report.board_sheets import boards, sheets, write_tables
from bdiff.report.cells import read_results, results_of
from bdiff.report.runs import find

EXAMPLES = """
  bdiff report outputs                                      all runs below outputs, as tables
  bdiff report outputs --tables DIR                         the same in files, and a figure of all
  bdiff report outputs --site outputs/site                  the same as a site
  bdiff report outputs --site outputs/site --results theirs a.json    and results from elsewhere
  bdiff report outputs --site public --copy                 with the runs' pages in it, to be published"""


def parser() -> Parser:
    """Return the parser of `bdiff report`."""
    parser = Parser("report", __doc__, EXAMPLES, tables=False)
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="folder", help="where to look for runs (default: outputs)"
    )
    parser.add_argument("--site", type=Path, metavar="DIR", help="write a site to a folder, instead of printing tables")
    parser.add_argument(
        "--tables", type=Path, metavar="DIR", help="write the tables to a folder, in four formats, and a figure"
    )
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
    existing_folders(folders)
    theirs, without = read_results(args.results)
    cells = [*results_of(find(folders)), *theirs]
    if not cells:
        places = ", ".join(map(str, [*folders, *args.results]))
        raise RequestError(f"no runs and no results of a cell found in {places}: name a folder that bdiff run wrote")
    print(*without, sep="\n", end="\n" if without else "")
    if args.tables:
        for file in written(args.tables, "--tables", lambda: write_tables(args.tables, cells)):
            print(f"written to {file}")
    if args.site:
        from bdiff.report.site import write_site  # Jinja is slow to import

        counts = written(args.site, "--site", lambda: write_site(args.site, cells, args.title, args.copy))
        elsewhere = f", {counts['elsewhere']} of them from elsewhere" if theirs else ""
        print(f"{args.site / 'index.html'}: {counts['cells']} cells of {counts['results']} results{elsewhere}")
    if not (args.tables or args.site):
        deliver([sheet for board in boards(cells).values() for sheet in sheets(board)[:1]], "rich", None)
