"""The commands of README and docs that read runs, pictures or a checkpoint, carried out over tiny ones."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from runs import carry_out
from test_audit import QUICK, saved
from test_docs import PAGES, commands
from tiny import ATTACKS, DEFENSES, TINY

from bdiff.cli import main as cli

#: the exit codes that a command may have: a verdict or a diagnosis has its own
CODES = {"audit": (0, 3), "zoo": (0,), "attacks": (0,), "cost": (0,), "shields": (0,), "table": (0,), "rerun": (0,),
         "doctor": (0, 1), "data": (0,)}  # fmt: skip
#: words that stand for the runs of a page, and those that would take long
INSTEAD = {"<folder>": "outputs/noise_path_ode", "train.steps=1000": "train.steps=3"}
#: what makes a command brief
BRIEF = {"audit": ["--method", "purediffusion", *QUICK]}
#: what is not here: a table's own runs, the hub, archives, and placeholders for other folders
ELSEWHERE = re.compile(r"--run|google/.*|.*cifar10.*|.*[<>].*")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Iterator[None]:
    """A folder with a clean, an attacked and a shielded run in outputs, a checkpoint, and pictures."""
    home = tmp_path_factory.mktemp("docs")
    found = DEFENSES["purediffusion"]
    for name, words in {
        "none": ["attack=none", "defense=purediffusion", *found],
        "noise_path_ode": ["attack=noise_path_ode", "sampler=ddim", "defense=purediffusion", *found],
        "diff2": [*DEFENSES["purification"], "defense=purification", *ATTACKS["diff2"]],
    }.items():
        assert carry_out(home, f"outputs/{name}", *TINY, "sample.steps=4", *words)[0] == 0
    saved(home / "downloaded")
    (home / "pictures").mkdir()
    for k in range(4):
        Image.new("RGB", (16, 16), (60 * k,) * 3).save(home / "pictures" / f"{k}.png")
    with zipfile.ZipFile(home / "faces.zip", "w") as archive:
        for path in (home / "pictures").iterdir():
            archive.write(path, path.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BDIFF_CACHE", str(home / "cache"))
        patch.chdir(home)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODES)
def test_commands_that_read_are_carried_out(kind, here, capsys):
    told = {command.words[1:] for page in PAGES for command in commands(page, "bdiff") if command.words[1] == kind}
    brief = BRIEF.get(kind, [])
    asked = [[re.sub(r"^outputs/tide(-\w+)?$", "outputs", INSTEAD.get(word, word)) for word in words] for words in told]
    asked = [words for words in sorted(asked) if not any(map(ELSEWHERE.fullmatch, words))]
    for words in asked:
        removal = ["defense.removal.train.steps=2"] if "--repair" in words else []
        code = cli.command([*words, *brief, *removal])
        assert code in CODES[kind], (words, capsys.readouterr().err)
    assert asked and all(Path(words[words.index("--figure") + 1]).is_file() for words in asked if "--figure" in words)
