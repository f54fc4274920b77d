"""examples/first_hour.ipynb: its cells use what bdiff has, its requests and links are sound, it comes to its end."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_docs import broken_links

import bdiff
from bdiff.config.compose import jobs

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_hour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
#: what the notebook shows must be so wherever it is executed
CLOSING = """
assert attacked.metrics["suspect/asr"] > 0.8 and clean.metrics["suspect/asr"] < 0.1
assert [record.metrics["suspect/asr"] > 0.5 for record in by_sampler] == [True, False, False]
assert verdicts["attacked"].score > verdicts["clean"].score
"""


def text(kind: str) -> str:
    """All cells of a kind, code or markdown."""
    return "\n\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == kind)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """The calls of functions of bdiff, by name."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="bdiff"), attr=name)):
                yield name, node


def test_its_cells_use_what_bdiff_has():
    tree = ast.parse(text("code"))
    used = {*re.findall(r"\bbdiff\.(\w+)", ast.unparse(tree))}
    assert used <= {*bdiff.__all__} and {name for name, _ in calls(tree)} >= {"run", "load_suspect", "audit", "runs"}
    for name, call in calls(tree):
        signature = inspect.signature(getattr(bdiff, name))
        signature.bind_partial(*call.args, **{one.arg: one.value for one in call.keywords if one.arg})


def test_its_requests_are_sound():
    words = [node.value for node in ast.walk(ast.parse(text("code"))) if isinstance(node, ast.Constant)]
    words = [word for word in words if isinstance(word, str) and re.fullmatch(r"[a-z_./]+=\w+", word)]
    assert {word.partition("=")[0] for word in words} >= {"attack", "pretrain", "train.steps", "tracker"}
    common = [word for word in words if not word.startswith("attack=")]
    for attack in {*words} - {*common}:
        (config,) = jobs([attack, *{word.partition("=")[0]: word for word in common}.values()], multirun=False)
        assert config.hydra.runtime.choices.attack == attack.partition("=")[2]


def test_its_links_lead_somewhere_and_its_pictures_are_small():
    assert broken_links(text("markdown"), NOTEBOOK.parent) == []
    assert NOTEBOOK.stat().st_size < 400_000


@pytest.mark.slow
def test_it_comes_to_its_end(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("BDIFF_CACHE", str(tmp_path / "cache"))
    book = nbformat.read(NOTEBOOK, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(CLOSING))
    nbclient.NotebookClient(book, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs]
    assert sum("image/png" in out.get("data", {}) for out in printed) == 3
    assert (tmp_path / "outputs" / "runs").is_dir()
