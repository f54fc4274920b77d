"""The wheel holds the configs, and runs from them without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny import TINY

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.y*ml"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources, for a build leaves folders behind."""
    if not find_spec("build") or not find_spec("setuptools"):
        pytest.skip("building a wheel offline needs build and setuptools in this environment: make setup")
    source = tmp_path_factory.mktemp("source")
    for name in ("bdiff", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source]
    built = subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (source / "dist").glob("bdiff-*.whl")
    return path


def test_the_wheel_holds_every_config_and_module(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert [f"bdiff/conf/{name}" for name in CONFIGS] == sorted(name for name in names if name[-4:] in ("yaml", ".yml"))
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bdiff").rglob("*.py")}
    pages = {
        path.relative_to(ROOT).as_posix()
        for suffix in ("html", "css", "js", "txt")
        for path in (ROOT / "bdiff").rglob(f"*.{suffix}")
    }
    assert pages <= set(names) and len(pages) > 10
    assert modules | {"bdiff/conf/__init__.py"} == {name for name in names if name.endswith(".py")}


def test_the_wheel_finds_its_configs_from_anywhere(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    with (site / "bdiff" / "conf" / "config.yaml").open("a") as file:
        file.write("from_the_wheel: true\n")  # tells these configs from the checkout's
    env = {**os.environ, "PYTHONPATH": str(site)}
    words = ["-c", "import bdiff.cli.main; bdiff.cli.main.main()", "run", "--cfg", "job", "data=cifar10"]
    answer = subprocess.run([sys.executable, *words], cwd=here, env=env, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0 and not answer.stderr, answer
    config = OmegaConf.create(answer.stdout)
    assert config.from_the_wheel and config.data._target_ == "bdiff.data.cifar10.cifar10"
    assert not list(here.iterdir())


@pytest.mark.slow
def test_the_wheel_installs_and_runs_and_leaves_a_page(wheel, tmp_path):
    """In an environment of its own, which finds the packages of this one but not this bdiff."""
    venv.create(tmp_path / "venv")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    pip = [sys.executable, "-m", "pip", "--python", tmp_path / "venv" / "bin" / "python", "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", wheel], check=True, timeout=120)
    here = tmp_path / "here"
    here.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = ["run", "--quiet", *TINY, "attack=none", "paths.cache=cache", "hydra.run.dir=outputs/run"]
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "bdiff", *words], cwd=here, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((here / "outputs" / "run" / "metrics.json").read_text())
    assert "suspect/false_trigger" in record["metrics"]
    assert "<html" in (here / "outputs" / "run" / "report.html").read_text()
