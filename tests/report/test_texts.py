"""Text of users' comes out as it is, on the terminal, in LaTeX and in figures."""

import io

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bdiff.common.progress import Screen
from bdiff.report.charts import literal, over
from bdiff.report.runs import Run
from bdiff.report.sheet import Cell, Sheet, to_latex, to_md
from bdiff.report.table import boxed, metrics_table

ODD = "[bold]a[z] :cat: $b$ [/"


def printed(what: object) -> str:
    screen = Screen(file=io.StringIO(), width=160)
    screen.print(what)
    return screen.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_names_as_they_are():
    sheet = Sheet(ODD, [ODD, "n"], [[Cell(ODD), Cell("1", 1.0)]], [])
    assert printed(ODD) == f"{ODD}\n"
    assert ODD in printed(metrics_table({"name": ODD, "metrics": {"suspect/asr": 0.5}}))
    assert printed(boxed(sheet)).count(ODD) == 3


def test_a_closed_pipe_is_reported_by_its_own_error():
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Screen(file=Closed()).print("a")


def test_a_row_of_latex_may_begin_with_a_bracket_and_keeps_its_hyphens():
    latex = to_latex(Sheet("t", ["n"], [[Cell("[a]--b---`c`")], [Cell("*")]], []))
    assert r"{[}a]-{}-b-{}-{}-\textasciigrave{}c\textasciigrave{}" in latex and "{*}" in latex


def test_markdown_shows_stars_and_brackets():
    words, safe = "*a* <b> [c]\nd|e", r"\*a\* \<b> \[c] d\|e"
    text = to_md(Sheet(words, ["n"], [[Cell(words)]], [words]))
    assert text.splitlines()[0] == f"**{safe}**" and f"| {safe} |" in text and f"- {safe}\n" in text


def test_dollars_in_figures_are_dollars_and_numbers_on_axes_stay_mathematics():
    figure = Figure()
    axes = figure.subplots()
    axes.set_title("$a$")
    axes.semilogy([1, 2], [1, 1000])
    literal(figure).savefig(io.BytesIO())
    texts = {text.get_text(): text.get_parse_math() for text in figure.findobj(Text)}
    assert texts["$a$"] is False
    assert all(texts[text] for text in texts if "mathdefault" in text) and any("mathdefault" in text for text in texts)


def test_a_legend_leaves_no_name_out(tmp_path):
    runs = [
        Run(tmp_path, {"status": "done", "metrics": {"suspect/asr": 0.5}}, {"name": name, "x": x})
        for name in ("_a", "b")
        for x in (1, 2)
    ]
    drawn = over(runs, "suspect/asr", "x", ["name"]).decode()
    assert "<!--  _a -->" in drawn and "<!-- b -->" in drawn
