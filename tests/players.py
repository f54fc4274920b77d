"""Stand-ins for bdiff's commands in the processes that tests start."""

from pathlib import Path

import bdiff


def play(folder: Path, code: str) -> None:
    """Let `python -m bdiff` in `folder` run `code`, beside all of bdiff's modules."""
    (folder / "bdiff").mkdir()
    (folder / "bdiff" / "__init__.py").write_text(
        f"__version__ = {bdiff.__version__!r}\n__path__.append({str(Path(bdiff.__file__).parent)!r})\n"
    )
    (folder / "bdiff" / "__main__.py").write_text(code)
