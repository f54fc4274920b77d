"""Files of published networks: given by the user, in torch's hub cache, or downloaded into it."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from bdiff.common.downloads import NotHere, allowed
from bdiff.common.errors import RequestError
from bdiff.common.pickles import refusal
from bdiff.common.places import no_file


def find(
    given: str | None,  # the user's file; None looks in torch's hub cache and downloads into it
    key: str,  # the config key that gives it
    url: str,
    needs: str,  # "metric/fid=inception needs pytorch-fid's Inception weights"
    ways_out: str,  # a line with the alternatives
) -> Path:
    """Return the file. Raises RequestError if it is not available."""
    if given is not None:
        path = Path(given).expanduser()
        if why := no_file(path):
            raise RequestError(f"{key}={given} {why}", ways_out)
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.exists():
        if not allowed():
            raise NotHere(f"{key}: not here, to be downloaded")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (URLError, OSError) as error:
            raise RequestError(f"{needs}: not at {path}, and the download failed ({error})", ways_out) from error
    return path


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors(path: Path, what: str) -> dict[str, Any]:
    """Return the tensors in `path` by name, without unpickling objects. Raises RequestError if it is not `what`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types; each means a damaged or a foreign file
        raise RequestError(f"{path} {mismatch(error, what)}") from error


def mismatch(error: BaseException, what: str) -> str:
    """Return why a file that should hold `what` is refused, as the end of a message."""
    return refusal(error) or f"does not hold {what} ({str(error).strip().splitlines()[0]})"
