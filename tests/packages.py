"""Packages outside the repository, as pip installs them: their files, with a dist-info that holds the entry point."""

from pathlib import Path
from textwrap import dedent

from bdiff.config import compose, instantiate, plugins


def install(site: Path, name: str, files: dict[str, str], package: str | None = None) -> Path:
    """Write the plugin `name` with its `files` below the folder `site`, which is returned: a path to import from."""
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(dedent(text).lstrip())
    describe(site, name, package or name)
    return site


def installed_as_written(package: Path) -> Path:
    """Make a package that `bdiff new` wrote importable from its folder, which is returned, as pip install -e does."""
    describe(package, package.name, f"bdiff_{package.name}")
    return package


def describe(site: Path, name: str, package: str) -> None:
    """Write the dist-info of the plugin `name` below `site`."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bdiff.parts]\n{name} = {package}\n")


def forget() -> None:
    """Forget which plugins were found, as a new process does."""
    for kept in (plugins.installed, plugins.warn_broken, instantiate.ours, compose.defaults):
        kept.cache_clear()
