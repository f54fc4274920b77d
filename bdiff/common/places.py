"""Files and folders that a request names: whether they can be read, or made, before anything is. Torch-free."""

import stat
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

#: the last parts of keys that name files or folders, whose content numbers depend on
PLACES = ("path", "pretrained", "weights", "lpips_weights", "reference")
#: keys of folders that are made where they are missing
MADE = ("paths.outputs", "paths.cache", "hydra.run.dir", "hydra.sweep.dir")


def no_file(path: Path) -> str | None:
    """Return why there is no file at `path` to be read, as the end of a line; None where there is one.

    Reading from a pipe or a device would wait, or go on, for ever.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return "does not exist"
    except OSError as error:  # a link to itself, a folder that is somebody else's
        return f"cannot be read ({error.strerror})"
    if stat.S_ISREG(mode):
        return None
    return "is no file but a folder" if stat.S_ISDIR(mode) else "is no file but a pipe or device"


def is_file(path: Path) -> bool:
    """Return whether a file can be read at `path`: not through a link that leads nowhere, nor from a pipe, for ever."""
    return no_file(path) is None


def odd_files(folder: Path) -> list[Path]:
    """Return what below `folder` is neither a file nor a folder: pipes and devices, but not links that lead nowhere."""
    return sorted(path for path in folder.rglob("*") if path.exists() and not (path.is_dir() or is_file(path)))


def no_folder(path: Path) -> str | None:
    """Return why there can be no folder at `path`, as the end of a line; None where there is one, or can be made."""
    for place in (path, *path.parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                return f"cannot be a folder: {shown(place)} is a link that leads nowhere"
        except (OSError, ValueError) as error:  # too long a name, a zero byte
            return f"cannot be a folder ({error.args[-1]})"
        else:
            return None if stat.S_ISDIR(mode) else f"cannot be a folder: {shown(place)} is a file"
    return None


def folder_problems(config: DictConfig) -> list[str]:
    """Return which of the folders that a run writes into cannot be, each told where it is first named."""
    found: dict[str, str] = {}
    for key in MADE:
        value = OmegaConf.select(config, key)
        if value is None:  # a saved config has none of Hydra's
            continue
        if why := no_folder(Path(str(value)).expanduser()):
            found.setdefault(why, f"{key}={shown(value)} {why}: name another folder")
    return list(found.values())


def home_problems(config: DictConfig, values: dict[str, Any]) -> list[str]:
    """Return which folders and files lie in a home that is not there, or behind a ~ that came too late.

    `values` are those of `config` by their dotted keys.
    """
    made = {key: OmegaConf.select(config, key) for key in MADE}
    own = {key: value for key, value in values.items() if key.rpartition(".")[2] in PLACES}
    problems = []
    for key, value in (own | made).items():
        if not str(value).startswith("~"):
            continue
        try:
            Path(str(value)).expanduser()
        except RuntimeError:
            way_out = "set HOME or BDIFF_CACHE" if key == "paths.cache" else "write the path out"
            problems.append(f"{key}={value}: there is no such home directory here: {way_out}")
        else:
            if key not in own and key != "paths.cache":  # only at the front of an option's own value it is expanded
                problems.append(f"{key}={value} would make a folder called ~: write the path out")
    return problems


def shown(value: object, most: int = 120) -> str:
    """Return a value as a line shows it: a long one is cut."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 20]}..."


def is_here() -> bool:
    """Return whether the current folder is still there."""
    try:
        return Path.cwd().is_dir()
    except FileNotFoundError:
        return False
