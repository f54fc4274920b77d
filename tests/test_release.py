"""What a release consists of beside the code: one version everywhere, and docs that know the extras."""

import re
import tomllib
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version_everywhere():
    citation = OmegaConf.load(ROOT / "CITATION.cff")
    (latest, *_) = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation.version == latest == PROJECT["version"]
    assert citation.license == PROJECT["license"]


def test_every_extra_that_a_message_or_page_names_exists():
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bdiff/**/*.py"), *ROOT.glob("conf/**/*.yaml")]
    named = {name for path in texts for name in re.findall(r"bdiff\[(\w+)\]", path.read_text())}
    assert {"attacks", "classifiers", "cluster"} <= named <= set(PROJECT["optional-dependencies"])
