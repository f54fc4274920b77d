"""Whether a file is intact, checked by its own format: after a full disk or a power loss. Torch-free."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from bdiff.common.pickles import first_line
from bdiff.common.places import no_file


class Entry(NamedTuple):
    """One tensor's entry in the header of a safetensors file."""

    dtype: str  # F32, F16, ...
    shape: tuple[int, ...]


def entries(path: Path) -> dict[str, Entry]:
    """Return the entries of a safetensors file, by name, from its header. Raises ValueError if it is incomplete."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("it is truncated or not a safetensors file")
        text = file.read(length)
    try:
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        found = {name: Entry(one["dtype"], tuple(one["shape"])) for name, one in header.items()}
        end = max((one["data_offsets"][1] for one in header.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError("its header is damaged, or it is not a safetensors file") from error
    if 8 + length + end != size:
        raise ValueError(f"it has {size} of {8 + length + end} bytes")
    return found


def fault(path: Path, deep: bool = False) -> str | None:
    """Return why a file is not intact; None if no damage is found.

    `deep` also compares the checksums of a zip (.pt, .npz), which torch never does.
    """
    if why := no_file(path):
        return f"it {why}"
    try:
        match path.suffix:
            case ".safetensors":
                entries(path)
            case ".json":
                json.loads(path.read_text())
            case ".npz" | ".pt":
                with zipfile.ZipFile(path) as archive:
                    if deep and (member := archive.testzip()) is not None:
                        return f"the checksum of {member} is wrong"
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        return first_line(error)
    return None
