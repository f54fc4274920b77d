"""`bdiff new`: packages that are plugins as they are written, and pass their own tests."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packages import forget, installed_as_written

from bdiff.cli import main as cli
from bdiff.config.compose import jobs

KINDS = {
    **{f"my_{kind}": [kind] for kind in ("attack", "data", "trigger")},
    **{f"my_{role}": ["defense", "--role", role] for role in ("detection", "removal", "sampling", "shield", "inputs")},
}


def new(place: Path, name: str, kind: str, *more: str) -> Path:
    """The package that `bdiff new` writes."""
    assert cli.command(["new", kind, name, "--folder", str(place), *more]) == 0
    return place / name


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> list[Path]:
    """A package of every kind, installed."""
    place = tmp_path_factory.mktemp("new")
    return [installed_as_written(new(place, name, *words)) for name, words in KINDS.items()]


@pytest.mark.slow
def test_every_package_passes_its_own_test(packages):
    path = os.pathsep.join([*map(str, packages), os.environ.get("PYTHONPATH", "")])
    words = ["-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *map(str, packages)]
    answer = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": path},
        cwd=packages[0].parent,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0 and f"{2 * len(packages)} passed" in answer.stdout, answer.stdout + answer.stderr


def test_every_package_is_an_option_at_once(packages, monkeypatch):
    for package in packages:
        monkeypatch.syspath_prepend(package)
    forget()
    for package in packages:
        (yaml,) = package.rglob("conf/*/*.yaml")
        (config,) = jobs([f"{yaml.parent.name}={package.name}"], False)
        assert config[yaml.parent.name]._target_.startswith(f"bdiff_{package.name}.{package.name}.")
    forget()


def test_what_is_written(packages):
    attack = packages[0]
    files = sorted(str(path.relative_to(attack)) for path in attack.rglob("*") if path.is_file())
    assert [name for name in files if "dist-info" not in name] == [
        "README.md",
        "bdiff_my_attack/__init__.py",
        "bdiff_my_attack/conf/attack/my_attack.yaml",
        "bdiff_my_attack/my_attack.py",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/test_my_attack.py",
    ]
    project = tomllib.loads((attack / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["bdiff.parts"] == {"my_attack": "bdiff_my_attack"}
    assert not [
        path for package in packages for path in package.rglob("*") if path.is_file() and "$" in path.read_text()
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attack", "1st"], "1st is not a lower-case python name"),
        (["attack", "my-attack"], "my-attack is not a lower-case python name"),
        (["attack", "../out"], "../out is not a lower-case python name"),
        (["attack", "class"], "class is not a lower-case python name"),
        (["attack", "Mine"], "Mine is not a lower-case python name"),
        (["attack", "diff2"], "diff2 is already an option of attack"),
        (["defense", "removal/digits"], "removal/digits is not a lower-case python name"),
        (["attack", "tensor"], "tensor is a name that the generated module uses itself"),
        (["trigger", "place"], "place is a name that the generated module uses itself"),
        (["atack", "mine"], "bdiff new atack is not known; did you mean attack?"),
        (["defense", "mine", "--role", "remove"], "--role=remove is not known; did you mean removal?"),
        (["attack", "mine", "--role", "removal"], "--role=removal applies only to a defense"),
        (["attack"], "the following arguments are required: name: see bdiff new --help"),
        (["attack", "mine", "--fold", "x"], "unrecognized arguments: --fold x"),
    ],
)
def test_what_cannot_be_written(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.command(["new", *words]) == 2
    assert capsys.readouterr().err.startswith(f"bdiff: {message}")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert cli.command(["new", "attack", "mine", "--folder", str(tmp_path)]) == 2
    assert "already exists" in capsys.readouterr().err and not list((tmp_path / "mine").iterdir())
