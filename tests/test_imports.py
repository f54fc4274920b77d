"""Imports go down only (DESIGN section 3), defenses know no attack, and a request is checked without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bdiff"

#: a module imports from its own layer's folder and from layers below, never from above or beside
LAYERS = [
    {
        "errors",
        "make",
        "progress",
        "provenance",
        "results",
        "threads",
        "schedule",
        "seeds",
        "store",
        "device",
        "draw",
        "noise",
        "pickles",
        "peers",
        "pictures",
        "places",
        "schedulers",
        "spelling",
        "steps",
        "ledger",
        "versions",
        "whole",
    },
    {"data", "trigger", "target", "model", "tracker", "report"},
    {"classifier"},
    {"metric"},
    {"train", "sample"},
    {"attack", "defense"},  # beside each other: a defense never imports an attack
    {"amplify"},
    {"context"},
    {"stage"},
    {"experiment"},
    {"job"},
    {"rules"},
    {"keys"},
    {"checks"},
    {"request"},
    {"board", "sweep"},
    {"run"},
    {"rerun"},
    {"table"},
    {"zoo", "shields"},
    {"prepare"},
    {"doctor"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    """The file or folder right below bdiff/ that a module belongs to."""
    return path.parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The files and folders right below bdiff/ that a module imports, wherever in it."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            names = [f"{node.module}.{one.name}" for one in node.names]
        else:
            continue
        for name in names:
            if name.startswith("bdiff.") and name.split(".")[1] in {layer(one) for one in MODULES}:
                yield name.split(".")[1]


def test_every_module_has_its_layer():
    assert {layer(path) for path in MODULES} - {"__init__"} <= LEVEL.keys()


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_down(path):
    own = layer(path)
    for other in set(imported(path)) - {own}:
        assert LEVEL[other] < LEVEL[own] or LEVEL[own] == 0 == LEVEL[other], f"{path} imports bdiff.{other}"


def test_imports_within_the_lowest_layer_make_no_circle():
    wants = {name: set(imported(Path(f"{name}.py"))) for name in LAYERS[0]}
    while free := {name for name, others in wants.items() if not others & wants.keys()}:
        wants = {name: others for name, others in wants.items() if name not in free}
    assert not wants


@pytest.mark.parametrize(
    "modules",
    [
        "bdiff.cli.main, bdiff.config.compose",
        "bdiff.cli.table, bdiff.cli.zoo, bdiff.cli.shields",
        "bdiff.store.artifacts, bdiff.pictures.draw, bdiff.data.check",
    ],
)
def test_what_answers_at_once_imports_no_torch(modules):
    heavy = "{'torch', 'torchvision', 'diffusers', 'sklearn', 'matplotlib', 'wandb'}"
    code = f"import sys, {modules}; print(sorted({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer


def test_what_a_run_uses_only_later_is_not_imported_before_its_first_step():
    heavy = "{'torchmetrics', 'scipy.signal', 'sklearn', 'wandb', 'torch_fidelity', 'timm'}"
    code = f"import sys, bdiff.launch.job, bdiff.pipeline.experiment; print(sorted({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer
