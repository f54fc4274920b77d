"""A static site over run folders and results from elsewhere: a leaderboard for each role of defenses."""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import UnidentifiedImageError

from bdiff import __version__
from bdiff.common.errors import RequestError
from bdiff.report.cells import Result
from bdiff.report.page import templates, write_run_page
from bdiff.report.site_boards import BOARDS
from bdiff.report.site_pages import BoardPage, board_page, cell_page
from bdiff.report.site_rows import matrix
from bdiff.report.site_values import DEAR
from bdiff.store import artifacts

log = logging.getLogger(__name__)

#: in the folder of a site: what is there may be replaced
MARKER = "site.json"
#: files of the site that all its pages share, from those of this folder
SHARED = {"site.css": ("page.css", "site.css"), "site.js": ("site.js",)}
#: figures of a run that the page of its cell shows
FIGURES = {"trigger": "Trigger", "target": "Target", "clean": "Clean samples", "triggered": "Triggered samples"}


@dataclass(frozen=True)
class Site:
    """The site being written: where it is, where it will be, and whether it has copies of the runs' pages."""

    scratch: Path
    out: Path
    title: str
    copied: bool

    def write(self, name: str, template: str, **parts: Any) -> None:
        """Write a page of the site."""
        known = {"root": "../" * name.count("/"), "site": self.title, "boards": BOARDS, "here": name, "dear": DEAR}
        text = templates().get_template(template).render(known | parts)
        (self.scratch / name).write_text(text, encoding="utf-8")

    def link(self, cell: Result) -> str | None:
        """Return the page of a result, from the site's folder: that of a run, or of the fields of a JSON."""
        if cell.file is not None:
            return f"results/{cell.slug}.html"
        if self.copied:
            copy = f"runs/{cell.slug}.html"
            return copy if (self.scratch / copy).is_file() else None
        page = cell.run.folder / "report.html"
        return self.beside(page) if page.is_file() else None

    def beside(self, path: Path) -> str:
        """Return a file outside of the site as a link from its folder."""
        return quote(Path(os.path.relpath(path, self.out)).as_posix())

    def figures(self, cell: Result) -> dict[str, str]:
        """Return the pictures of a run by what they are; none where its pages are copied, which hold them."""
        if cell.file is not None or self.copied:
            return {}
        paths = {words: cell.run.folder / "figures" / f"{name}.png" for name, words in FIGURES.items()}
        return {words: self.beside(path) for words, path in paths.items() if path.is_file()}


def write_site(out: Path, cells: Sequence[Result], title: str, copied: bool) -> dict[str, int]:
    """Write the site of `cells` into the folder `out`, in place of an earlier one, and return what it holds.

    It links to the runs' pages where they are, or, with `copied`, to copies of them. Raises RequestError if `out` has
    something else in it.
    """
    if out.exists() and not (out.is_dir() and ((out / MARKER).is_file() or not any(out.iterdir()))):
        raise RequestError(f"--site {out} is not empty, and not a site of bdiff: give another folder")
    with artifacts.atomic(out) as scratch:
        for folder in ("cells", "results", "runs"):
            (scratch / folder).mkdir(parents=True)
        site = Site(scratch, out.resolve(), title, copied)
        if copied:
            copy_pages(site, cells)
        pages = {name: board_page(name, matrix(board, cells), site.link) for name, board in BOARDS.items()}
        for name, page in pages.items():
            site.write(f"{name}.html", "site_board.html", page=page)
            write_cells(site, page)
        write_results(site, cells)
        counts = {
            "results": len(cells),
            "elsewhere": sum(cell.file is not None for cell in cells),
            "cells": sum(len(page.slots) for page in pages.values()),
        }
        states = Counter(cell.run.record["status"] for cell in cells)
        stated = {
            "counts": counts,
            "states": states,
            "version": __version__,
            "written": time.strftime("%Y-%m-%d"),
        }
        site.write("index.html", "site_index.html", pages=pages, **stated)
        for name, parts in SHARED.items():
            text = "".join(Path(__file__).with_name(part).read_text(encoding="utf-8") for part in parts)
            (scratch / name).write_text(text, encoding="utf-8")
        (scratch / MARKER).write_text(json.dumps({"schema": "site/1", **stated}) + "\n")
    return counts


def copy_pages(site: Site, cells: Sequence[Result]) -> None:
    """Copy the runs' pages; one with a damaged picture is left out, with a warning."""
    for cell in cells:
        if cell.file is None and (cell.run.folder / "report.html").is_file():
            try:
                write_run_page(cell.run.folder, site.scratch / "runs" / f"{cell.slug}.html")
            except UnidentifiedImageError as error:
                log.warning("the site has no page of %s: %s", cell.run.folder, error)


def write_cells(site: Site, page: BoardPage) -> None:
    """Write a page for each cell of a board that has a run."""
    for slot in page.slots:
        pictures = next((found for cell in slot.cells if (found := site.figures(cell))), {})
        site.write(f"cells/{slot.slug}.html", "site_cell.html", page=page, pictures=pictures,
                   **cell_page(page, slot, site.link))  # fmt: skip


def write_results(site: Site, cells: Sequence[Result]) -> None:
    """Write the JSON of each result, and a page for each from elsewhere."""
    for cell in cells:
        if cell.json is not None:
            text = json.dumps(cell.json, indent=2, sort_keys=True, allow_nan=False)
            (site.scratch / "results" / f"{cell.slug}.json").write_text(text + "\n", encoding="utf-8")
        if cell.file is not None:
            site.write(f"results/{cell.slug}.html", "site_result.html", cell=cell)
