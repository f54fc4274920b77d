"""`bdiff results`: one JSON per result, to contribute to others' tables (docs/results.md)."""

from pathlib import Path

from bdiff.cli.shared import Parser, existing_folders
from bdiff.common.errors import RequestError, few
from bdiff.report.cells import files, results_of
from bdiff.report.runs import find
from bdiff.store import artifacts
from bdiff.store.foreign import load

EXAMPLES = """
  bdiff results export                                      outputs/results/<name>.json for every run below outputs
  bdiff results export outputs/tables/digits --out mine
  bdiff results check theirs/*.json                         whether they fit the schema, and what is wrong"""

DEFAULT = "default: %(default)s"
USAGE = "bdiff results export [folder] [--out DIR], or bdiff results check FILE ..."


def results(words: list[str]) -> int:
    """Execute `bdiff results`. Raises RequestError for invalid arguments."""
    match words:
        case ["export", *rest]:
            parser = Parser("results export", "Write a JSON for each run that is done.", EXAMPLES, tables=False)
            parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help=DEFAULT)
            parser.add_argument("--out", type=Path, metavar="DIR", default=Path("outputs/results"), help=DEFAULT)
            args = parser.parse_args(rest)
            return export(args.folder, args.out)
        case ["check", *rest]:
            parser = Parser("results check", "Validate JSONs against the schema result/1.", EXAMPLES, tables=False)
            parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSONs, or folders of them")
            return check(parser.parse_args(rest).files)
        case ["-h" | "--help"]:
            print(f"{__doc__}\n\nusage: {USAGE.replace(', or ', chr(10) + '       ')}\n\nexamples:{EXAMPLES}")
            return 0
    raise RequestError(f"use {USAGE}")


def export(folder: Path, out: Path) -> int:
    """Write the JSON of each run below a folder that is done, of one config and seed the newest; return 0."""
    existing_folders([folder])
    cells = results_of(find([folder]))
    done = [cell for cell in cells if cell.json is not None]
    if not done:
        raise RequestError(f"no run below {folder} is done ({len(cells)} did not finish)")
    for cell in done:
        artifacts.write_json(out / f"{cell.slug}.json", cell.json)
    rest = f"; {len(cells) - len(done)} that are not done are left out" if len(done) < len(cells) else ""
    print(f"{out}: {len(done)} results{rest}")
    return 0


def check(paths: list[Path]) -> int:
    """Print what is wrong with each JSON; return 1 if anything is."""
    wrong = 0
    for path in files(paths):
        found, faults = load(path)
        if faults:
            wrong += 1
            print(*(f"{path}: {fault}" for fault in few(faults, 31, "and {} more faults")), sep="\n")
        else:
            print(f"{path}: fits {found['schema']}" + ("" if "cell" in found else ", without a cell: not for the site"))
    return 1 if wrong else 0
