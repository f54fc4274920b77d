"""Makes the package of this tree importable without an installation, for this process and its children."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

#: the packages that bdiff needs here, by their import names
NEEDED = (
    *("torch", "torchvision", "torchmetrics", "accelerate", "diffusers", "hydra", "omegaconf", "pytorch_fid", "lmdb"),
    *(
        "torch_fidelity",
        "hydra_plugins.hydra_joblib_launcher",
        "safetensors",
        "sklearn",
        "scipy",
        "matplotlib",
        "jinja2",
    ),
    *("jinja2", "PIL", "numpy", "filelock", "huggingface_hub", "rich"),
)


def missing() -> list[str]:
    """Return the packages that this Python lacks."""

    def there(name: str) -> bool:
        try:
            return find_spec(name) is not None
        except ModuleNotFoundError:  # its parent is missing
            return False

    return [name for name in NEEDED if not there(name)]


def use(root: Path, state: Path) -> None:
    """Add a folder to the path that contains bdiff, with conf/ as bdiff.conf, laid out like an installation."""
    place = state / "site"
    package = place / "bdiff"
    package.mkdir(parents=True, exist_ok=True)
    parts = {path.name: path for path in (root / "bdiff").iterdir() if path.name != "__pycache__"}
    for name, target in {**parts, "conf": root / "conf"}.items():
        link = package / name
        if link.is_symlink() and link.resolve() != target.resolve():
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(target.resolve())
    version = re.search(r'^version = "(.+)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert version, "pyproject.toml names no version"
    info = place / f"bdiff-{version[1]}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bdiff\nVersion: {version[1]}\n")
    sys.path.insert(0, str(place))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
