"""What commands share: their parsers, the runs that they are over, and where their tables and figures go."""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from bdiff.common.errors import RequestError
from bdiff.common.spelling import did_you_mean
from bdiff.report.sheet import Sheet, to_csv, to_latex, to_md, to_rich
from bdiff.store import artifacts

if TYPE_CHECKING:
    from bdiff.report.runs import Run

T = TypeVar("T")

PICTURES = (".png", ".pdf", ".svg")
FORMATS: dict[str, Callable[[Sheet], str]] = {"rich": to_rich, "md": to_md, "latex": to_latex, "csv": to_csv}


class Parser(argparse.ArgumentParser):
    """The parser of a command that prints tables, if it does; reports errors in one line, like all of bdiff."""

    def __init__(self, command: str, description: str | None, examples: str, tables: bool = True):
        super().__init__(
            f"bdiff {command}",
            description=description,
            epilog=f"examples:{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if tables:
            self.add_argument("--format", choices=FORMATS, default="rich", help="default: rich; csv holds one table")
            self.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead of printing")

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}: see {self.prog} --help")


def names(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def fraction(word: str, *, whole: bool = False) -> float:
    """Return the number between 0 and 1 that a word gives; 1 itself only if `whole`."""
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not (0 < number < 1 or (whole and number == 1)):
        raise argparse.ArgumentTypeError(f"{word} must lie between 0 and 1")
    return number


def picture(word: str) -> Path:
    """Return the file that a figure is to be written to."""
    if Path(word).suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"{word} does not end in {', '.join(PICTURES)}")
    return Path(word)


def over_runs(command: str, about: str | None, examples: str, runs: str, rows: str = "", figure: str = "") -> Parser:
    """Return the parser of a command over the runs below folders, whose help says which `runs`.

    `rows` and `figure` say what these options do; without, there is none.
    """
    parser = Parser(command, about, examples)
    parser.add_argument("folders", nargs="+", type=Path, metavar="folder", help=f"where to look for {runs}")
    if rows:
        default = "default: those in which the runs differ"
        parser.add_argument("--rows", type=names, metavar="KEY,KEY", help=f"groups or dotted keys{rows} ({default})")
    if figure:
        parser.add_argument(
            "--figure", type=picture, metavar="FILE", help=f"draw {figure} to a file, as png, pdf or svg"
        )
    return parser


def existing_folders(folders: Sequence[Path]) -> None:
    """Raise RequestError for what is no folder."""
    if wrong := [
        f"{folder} is not a folder: name one with runs, such as outputs" for folder in folders if not folder.is_dir()
    ]:
        raise RequestError(*wrong)


def found_below(
    folders: Sequence[Path], wanted: Callable[[list["Run"]], list["Run"]], kind: str, hint: str = ""
) -> list["Run"]:
    """Return the runs below folders that are `wanted`.

    Raises RequestError for what is no folder, and if none of the runs is done.
    """
    from bdiff.report.runs import find  # not needed by commands without runs

    existing_folders(folders)
    runs = wanted(find(folders))
    if not any(run.done for run in runs):
        more = f" ({len(runs)} did not finish)" if runs else ""
        raise RequestError(f"no run with {kind} is done below {', '.join(map(str, folders))}{more}{hint}")
    return runs


def known_keys(runs: list["Run"], keys: list[str]) -> None:
    """Raise RequestError if one of `keys` is set in no run."""
    known = {key for run in runs for key in run.settings}
    wrong = [f"{key} is set in no run{did_you_mean(key, sorted(known))}" for key in keys if key not in known]
    if wrong:
        raise RequestError(*wrong)


def deliver(sheets: Sequence[Sheet], form: str, out: Path | None) -> None:
    """Print or write the tables, one after the other; csv has no notes, so they go to stderr."""
    narrow = form == "rich" and out is None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns
    text = "\n".join(to_rich(sheet, width) if narrow else FORMATS[form](sheet) for sheet in sheets)
    if out is None:
        print(text, end="")
    elif out.is_dir():
        raise RequestError(f"--out {out} is a folder: give a file")
    else:
        written(out, "--out", lambda: artifacts.write_text(out, text))
        print(f"written to {out}")
    if form == "csv":
        print(*(note for sheet in sheets for note in sheet.notes), sep="\n", file=sys.stderr)


def drawn(path: Path, draw: Callable[[Path], None]) -> None:
    """Draw a figure to `path`, and print that on stderr, as stdout is for the table."""
    if path.is_dir():
        raise RequestError(f"--figure {path} is a folder: give a file")
    written(path, "--figure", lambda: draw(path))
    print(f"drawn to {path}", file=sys.stderr)


def written(place: Path, option: str, write: Callable[[], T]) -> T:
    """Return what `write` returns. Raises RequestError if the place that `option` names cannot be written."""
    try:
        return write()
    except OSError as error:
        raise RequestError(f"{option} {place} cannot be written ({error.strerror or error})") from error
