"""A table as plain values, and its four output formats."""

import csv
import io
import re
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

#: special characters of LaTeX, and their escapes
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", "±": r"$\pm$", "×": r"$\times$", "†": r"$\dagger$", "·": r"$\cdot$",
    "[": "{[}", "*": "{*}",  # special after the end of the previous row
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and for a number the number itself."""

    text: str
    value: float | None = None
    std: float | None = None  # over seeds
    n: int | None = None  # of seeds; None in all cells of a column without means


@dataclass(frozen=True)
class Sheet:
    """A titled table: a head for every column, rows of cells, and notes below them."""

    title: str
    heads: list[str]
    rows: list[list[Cell]]
    notes: list[str]

    @property
    def right(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [
            any(cell.value is not None or cell.n is not None for cell in column)
            for column in zip(*self.rows, strict=True)
        ]


def to_rich(sheet: Sheet, width: int = 1000) -> str:
    """Return the table drawn with lines, at most `width` characters wide if its text can be wrapped."""
    longest = [max(len(cell.text) for cell in column) for column in zip(*sheet.rows, strict=True)]
    words = [max(map(len, head.split()), default=0) for head in sheet.heads]
    least = [max(word, size if right else min(size, 20))
             for word, size, right in zip(words, longest, sheet.right, strict=True)]  # fmt: skip
    console = Console(
        file=io.StringIO(), width=max(width, sum(least) + 3 * len(least)), markup=False, emoji=False, highlight=False
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head, size, right in zip(sheet.heads, least, sheet.right, strict=True):
        if right:
            table.add_column(head.replace(" ", "\n"), justify="right", no_wrap=True, min_width=size)
        else:
            table.add_column(head, overflow="fold", min_width=size)
    for row in sheet.rows:
        table.add_row(*(cell.text for cell in row))
    with console.capture() as shown:
        console.print(sheet.title, table, *sheet.notes, sep="\n")
    return "\n".join(line.rstrip() for line in shown.get().splitlines()) + "\n"


def to_md(sheet: Sheet) -> str:
    """Return the table in Markdown, its notes as a list."""

    def safe(text: str) -> str:
        return re.sub(r"([\\|*<\[`])", r"\\\1", " ".join(text.split()))

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(map(safe, cells))} |"

    rule = f"| {' | '.join('---:' if right else '---' for right in sheet.right)} |"
    body = [line([cell.text for cell in row]) for row in sheet.rows]
    notes = [f"- {safe(note)}" for note in sheet.notes]
    return "\n".join([f"**{safe(sheet.title)}**", "", line(sheet.heads), rule, *body, "", *notes]) + "\n"


def to_latex(sheet: Sheet) -> str:
    """Return the table as a LaTeX table with booktabs rules, its notes below."""

    def line(cells: list[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    body = [line([latex(cell) for cell in row]) for row in sheet.rows]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}[ht]",
            r"  \centering",
            rf"  \caption{{{escaped(sheet.title)}}}",
            rf"  \begin{{tabular}}{{{''.join('r' if right else 'l' for right in sheet.right)}}}",
            r"    \toprule",
            line([escaped(head) for head in sheet.heads]),
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"  \par\smallskip\footnotesize\raggedright",
            *(f"  {escaped(note)}\\par" for note in sheet.notes),
            r"\end{table}",
        ]
    ) + "\n"  # fmt: skip


def latex(cell: Cell) -> str:
    """Return a cell for LaTeX, with exponents written as powers of ten."""
    if cell.value is None:
        return escaped(cell.text)
    return re.sub(r"(\d)e([+-]\d+)", lambda found: rf"{found[1]}$\times 10^{{{int(found[2])}}}$", escaped(cell.text))


def escaped(text: str) -> str:
    """Return `text` escaped for LaTeX, including double hyphens."""
    return "".join(LATEX.get(letter, letter) for letter in text).replace("--", "-{}-").replace("--", "-{}-")


def to_csv(sheet: Sheet) -> str:
    """Return the table as CSV at full precision: a column of means becomes mean, std and n. Notes are omitted."""
    means = [any(row[place].n is not None for row in sheet.rows) for place in range(len(sheet.heads))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = [[f"{head} {part}" for part in ("mean", "std", "n")] if mean else [head]
             for head, mean in zip(sheet.heads, means, strict=True)]  # fmt: skip
    writer.writerow([head for part in parts for head in part])
    for row in sheet.rows:
        writer.writerow([field for cell in row for field in fields(cell)])
    return out.getvalue()


def fields(cell: Cell) -> list[str | float | int]:
    """Return a cell's CSV fields: its text if it has no number, empty if it has no deviation."""
    first = cell.text if cell.value is None else cell.value
    return [first] if cell.n is None else [first, "" if cell.std is None else cell.std, cell.n]
