"""bdiff: train, measure and defend against backdoors in diffusion models, from one configured command or as a library.

    import bdiff

    record = bdiff.run(["attack=baddiffusion", "train.steps=100"])
    verdict = bdiff.audit(bdiff.load_suspect(record.folder))

The functions are imported on first use, since torch takes a second to import.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bdiff.common.errors import RequestError as RequestError
    from bdiff.common.errors import RunError as RunError
    from bdiff.defense.base import Verdict as Verdict
    from bdiff.diffusion.denoiser import Suspect as Suspect
    from bdiff.library.records import Record as Record
    from bdiff.library.records import Records as Records
    from bdiff.library.records import runs as runs
    from bdiff.library.request import run as run
    from bdiff.library.suspects import audit as audit
    from bdiff.library.suspects import load_suspect as load_suspect

__version__ = version("bdiff")

#: the module of each public name
_PLACES = {
    "Record": "bdiff.library.records",
    "Records": "bdiff.library.records",
    "RequestError": "bdiff.common.errors",
    "RunError": "bdiff.common.errors",
    "Suspect": "bdiff.diffusion.denoiser",
    "Verdict": "bdiff.defense.base",
    "audit": "bdiff.library.suspects",
    "load_suspect": "bdiff.library.suspects",
    "run": "bdiff.library.request",
    "runs": "bdiff.library.records",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module bdiff has no attribute {name!r}: it has {', '.join(_PLACES)}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*_PLACES, "__version__"]
