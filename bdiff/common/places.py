"""Files and folders that a request names: whether they can be read or created, checked first. Torch-free."""

import os
import stat
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

#: the last parts of keys that name files or folders whose content affects the numbers
PLACES = ("path", "pretrained", "weights", "lpips_weights", "reference", "clean", "foreign_path")
#: keys of folders that are created if missing
MADE = ("paths.outputs", "paths.cache", "hydra.run.dir", "hydra.sweep.dir")


def no_file(path: Path) -> str | None:
    """Return why there is no readable file at `path`, as the end of a message; None if there is one.

    Reading from a pipe or a device might never end.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return "does not exist"
    except OSError as error:  # a link to itself, a folder without permission
        return f"cannot be read ({error.strerror})"
    if stat.S_ISREG(mode):
        return None
    return "is a folder, not a file" if stat.S_ISDIR(mode) else "is a pipe or device, not a file"


def is_file(path: Path) -> bool:
    """Return whether `path` is a readable file: not a broken link, a pipe or a device."""
    return no_file(path) is None


def odd_files(folder: Path) -> list[Path]:
    """Return what below `folder` is neither a file nor a folder: pipes and devices, but not broken links."""
    return sorted(path for path in folder.rglob("*") if path.exists() and not (path.is_dir() or is_file(path)))


def no_folder(path: Path) -> str | None:
    """Return why `path` cannot be a folder, as the end of a message; None if it is one or can be created."""
    for place in (path, *path.parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                return f"cannot be a folder: {shown(place)} is a broken link"
        except (OSError, ValueError) as error:  # a name too long, a zero byte
            return f"cannot be a folder ({error.args[-1]})"
        else:
            return None if stat.S_ISDIR(mode) else f"cannot be a folder: {shown(place)} is a file"
    return None


def unwritable(path: Path) -> str | None:
    """Return why nothing can be written below `path`, as the end of a message; None if it can."""
    if why := no_folder(path):
        return why
    place = next(one for one in (path, *path.resolve().parents) if one.is_dir())
    return None if os.access(place, os.W_OK | os.X_OK) else f"cannot be written: there is no permission for {place}"


def folder_problems(config: DictConfig) -> list[str]:
    """Return which of the folders that a run writes to cannot be created, reported by the first key that names it."""
    found: dict[str, str] = {}
    for key in MADE:
        value = OmegaConf.select(config, key)
        if value is None:  # a saved config has none of Hydra's
            continue
        if why := no_folder(Path(str(value)).expanduser()):
            found.setdefault(why, f"{key}={shown(value)} {why}: name another folder")
    return list(found.values())


def home_problems(config: DictConfig, values: dict[str, Any]) -> list[str]:
    """Return which folders and files are in a home directory that does not exist, or have a ~ that is not expanded.

    `values` maps the dotted keys of `config` to their values.
    """
    created = {key: OmegaConf.select(config, key) for key in MADE}
    own = {key: value for key, value in values.items() if key.rpartition(".")[2] in PLACES}
    problems = []
    for key, value in (own | created).items():
        if not str(value).startswith("~"):
            continue
        try:
            Path(str(value)).expanduser()
        except RuntimeError:
            way_out = "set HOME or BDIFF_CACHE" if key == "paths.cache" else "write the path out"
            problems.append(f"{key}={value}: there is no such home directory here: {way_out}")
        else:
            if key not in own and key != "paths.cache":  # ~ is expanded only at the start of an option's own value
                problems.append(f"{key}={value} would create a folder named ~: write the path out")
    return problems


def shown(value: object, most: int = 120) -> str:
    """Return a value as messages show it: a long one is truncated."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 20]}..."


def has_cwd() -> bool:
    """Return whether the current folder still exists."""
    try:
        return Path.cwd().is_dir()
    except FileNotFoundError:
        return False
