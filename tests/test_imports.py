"""Imports go down only, over six layers; a request is checked without torch; files and functions stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bdiff"
#: a folder imports from its own layer and from those before it; config reads what is above it by its path alone
LAYERS = [
    {"common", "store", "config"},
    {"diffusion", "data", "model", "trigger", "target", "classifier", "pictures"},
    {"attack", "defense", "metric", "adversary", "tracker", "amplify"},
    {"pipeline"},
    {"launch", "report"},
    {"cli", "library", "__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.Module) -> set[str]:
    """The folders of bdiff that a module imports from, wherever in it."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(node.level == 0 for node in nodes if isinstance(node, ast.ImportFrom)), "write imports in full"
    names = [
        f"{node.module}.{one.name}" if isinstance(node, ast.ImportFrom) else one.name
        for node in nodes
        for one in node.names
    ]
    return {name.split(".")[1] for name in names if name.startswith("bdiff.")} & LEVEL.keys()


def modules(tree: ast.Module) -> set[str | None]:
    """The modules that a module imports names from."""
    return {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", TREES, ids=str)
def test_imports_go_down(path):
    own = path.parts[0].removesuffix(".py")
    assert max((LEVEL[name] for name in imported(TREES[path])), default=0) <= LEVEL[own]


def test_the_package_holds_folders_alone_and_a_defense_knows_no_attack():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.name for path in PACKAGE.glob("*/") if path.name != "__pycache__"} == LEVEL.keys() - {
        "__init__",
        "__main__",
    }
    for path, tree in TREES.items():
        assert "attack" not in imported(tree) or path.parts[0] != "defense", path


def test_stages_take_what_they_need_and_no_experiment():
    takers = {path.name for path, tree in TREES.items() if "bdiff.pipeline.experiment" in modules(tree)}
    assert takers == {"main.py", "defend.py", "plan.py", "work.py", "estimate.py", "audit.py"}


def test_every_folder_says_what_belongs_in_it():
    for path, tree in TREES.items():
        if path.name == "__init__.py":
            assert len((ast.get_docstring(tree) or "").split()) > 12, path


def test_files_and_functions_stay_small():
    """Constructors that a yaml calls may take more: each of their parameters is a setting."""
    for path, tree in TREES.items():
        assert len((PACKAGE / path).read_text().splitlines()) <= 300, path
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or node.name in ("__init__", "__call__"):
                continue
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if not any("Annotated" in ast.dump(one) for one in given):
                assert len([one for one in given if one.arg not in ("self", "cls")]) <= 8, f"{path}: {node.name}"


#: the modules that draw triggers and targets
PICTURES = [f"bdiff.{path.parent}.{path.stem}" for path in TREES if str(path.parent) in ("trigger", "target")
            and path.stem not in ("__init__", "base")]  # fmt: skip


@pytest.mark.parametrize(
    "work",
    [
        "import bdiff.cli.main, bdiff.config.compose",
        "import bdiff.cli.report, bdiff.cli.results, bdiff.report.site",
        "import bdiff.store.artifacts, bdiff.pictures.draw, bdiff.model.check",
        "import bdiff.data.check; bdiff.data.check.problems('/nowhere')",
        f"import {', '.join(PICTURES)}",
        "from bdiff.cli.main import command; "
        "[command([name, '--help']) for name in ('table', 'zoo', 'shields', 'attacks', 'cost')]",
    ],
)
def test_what_answers_at_once_imports_no_torch(work):
    heavy = "{'torch', 'torchvision', 'diffusers', 'sklearn', 'matplotlib', 'wandb'}"
    code = f"import sys; {work}; print(sorted({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.endswith("[]\n"), answer


def test_what_a_run_uses_only_later_is_not_imported_before_its_first_step():
    heavy = "{'torchmetrics', 'scipy.signal', 'sklearn', 'wandb', 'torch_fidelity', 'timm'}"
    code = f"import sys, bdiff.launch.job, bdiff.pipeline.experiment; print(sorted({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer
