"""Stand-ins for bdiff's commands in the processes that tests start."""

from pathlib import Path

import bdiff


def play(folder: Path, code: str) -> str:
    """Return what PYTHONPATH has to be for `python -m bdiff` to run `code`, beside all of bdiff's modules."""
    package = folder / ".player" / "bdiff"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"__version__ = {bdiff.__version__!r}\n__path__.append({str(Path(bdiff.__file__).parent)!r})\n"
    )
    (package / "__main__.py").write_text(code)
    return str(package.parent)
