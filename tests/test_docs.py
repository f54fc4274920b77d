"""README and docs: commands compose, or say what they need; links lead somewhere; the site loads nothing."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import initialize_config_module
from hydra._internal.utils import get_args_parser
from packages import forget, installed_as_written
from PIL import Image
from test_imports import LAYERS
from tiny import ATTACKS, DEFENSES, OTHERS, TINY

from bdiff.cli import main as cli
from bdiff.cli import table as tables
from bdiff.cli.make_table import first_value, requests
from bdiff.config.compose import jobs, override_problems
from bdiff.config.folders import named, with_folder
from bdiff.config.options import PACKAGE, group_options
from bdiff.config.sweeps import readable
from bdiff.config.tables import table_of
from bdiff.config.words import normal

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
#: pages whose commands `make test` composes; those of the others are left to `make test-slow`
FIRST = ("README.md", "start.md")
#: a fenced block, and the comment before it that says what its commands need besides a fresh clone
BLOCK = re.compile(r"(?:^<!-- needs: ([^>]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: what can be needed, and the words that cannot be composed without it
NEEDS = {
    "files": r".*<.*>.*|[a-z.]*(data\.path|pretrained|weights|reference)=.*",
    "network": "(?!)",
    "a GPU": "(?!)",
    "a cluster": r"hydra[./]launcher.*",
}
#: data that come with the package
HERE = ("digits", "digits_faint", "letters")


class Command(NamedTuple):
    """A command of a page, and what it needs."""

    words: tuple[str, ...]
    needs: frozenset[str]


def blocks(page: Path, *languages: str) -> Iterator[tuple[frozenset[str], str]]:
    """Yield what each fenced block in one of the languages needs, and its text."""
    for needs, language, text in BLOCK.findall(page.read_text()):
        if language in languages:
            yield frozenset(needs.split(", ") if needs else ()), text


def commands(page: Path, *programs: str) -> list[Command]:
    """The commands of a page, from the name of one of the `programs` on."""
    found = []
    for needs, text in blocks(page, "", "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.startswith((*programs, "torchrun")) else []
            start = next((at for at, word in enumerate(words) if word in programs), len(words))
            found += [Command(tuple(words[start:]), needs)] if words[start:] else []
    return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Iterator[None]:
    """A folder to work in, with the yamls that pages show, the pictures that they name, and what `bdiff new` writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("clone"))
        for page in PAGES:
            for _, text in blocks(page, "yaml"):
                if path := re.match(r"# (\S+\.yaml)\n", text):
                    Path(path[1]).parent.mkdir(parents=True, exist_ok=True)
                    Path(path[1]).write_text(text)
        known = {words for page in PAGES for words, _ in commands(page, "bdiff")}
        for word in {word for words in known for word in words if re.match(r"(trigger|target)\.path=", word)}:
            Image.new("RGB", (20, 20), "gray").save(word.partition("=")[2])
        for words in (words for words in known if words[1] == "new"):
            assert cli.command([*words[1:]]) == 0
            patch.syspath_prepend(installed_as_written(Path(words[3]).resolve()))
        forget()
        yield
    forget()


@cache
def compose(words: tuple[str, ...], needs: frozenset[str]) -> None:
    """Check the words of a run, and compose its first job."""
    args = get_args_parser().parse_args([word for word in words if word != "--quiet"])
    known = [normal(word) for word in args.overrides if not any(re.fullmatch(NEEDS[one], word) for one in needs)]
    overrides = with_folder(known, args.config_dir)
    groups = group_options(named(overrides))
    with initialize_config_module(PACKAGE, version_base="1.3"):  # every value of a sweep
        assert [line for word in overrides for line in override_problems(readable(word), groups, args.multirun)] == []
    config = jobs([*map(first_value, overrides)], args.multirun)[0]
    if not {"files", "network"} & needs:
        assert config.hydra.runtime.choices.data in HERE, f"needs: network ({' '.join(words)})"
        assert not config.model.pretrained and config.hydra.runtime.choices["metric/fid"] != "inception"


def check(command: Command, capsys) -> None:
    """Check a command of bdiff as far as possible without carrying it out."""
    _, *words = command.words
    match words:
        case ["run", *rest]:
            compose(tuple(rest), command.needs)
        case ["rerun", _, *changes] | ["doctor", *changes]:
            compose(tuple(word for word in changes if word != "--cuda"), command.needs)
        case ["data", "prepare" | "verify", name, *rest]:
            compose((f"data={name}", *rest), command.needs | {"network"})
        case ["table", *rest]:
            args = tables.parser().parse_args(rest)
            for name in args.what:
                asked = table_of(name, args.profile) if tables.is_table(name) else None
                assert asked or name == "outputs" or tables.rows_of(name, [*group_options()["experiment"]])
                if asked and args.run:
                    compose(("-m", *requests(asked, args.run)[0]), command.needs | {"network"})
        case ["audit" | "zoo" | "attacks" | "cost" | "shields" as name, *rest]:
            import_module(f"bdiff.cli.{name}").parser().parse_args(rest)
        case _:
            code, said = cli.command(words), capsys.readouterr().err
            assert code == 0 or words[0] == "new" or ("--help" not in said and "use bdiff" not in said), said


@pytest.mark.parametrize(
    "page", [pytest.param(one, marks=() if one.name in FIRST else pytest.mark.slow, id=one.name) for one in PAGES]
)
def test_every_command_of_a_page_is_a_sound_request_or_says_what_it_needs(page, clone, capsys):
    for command in commands(page, "bdiff"):
        assert command.needs <= NEEDS.keys(), command
        check(command, capsys)


def test_every_target_of_make_is_there_and_its_commands_are_sound(clone, capsys):
    targets = {command.words for page in PAGES for command in commands(page, "make")}
    variables = {*re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    for words in targets:
        assert {word.partition("=")[0] for word in words if "=" in word} <= variables
        made = subprocess.run(["make", "-C", ROOT, "-n", *words[1:]], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        assert all(word.partition("=")[2] in made.stdout for word in words if word.startswith("DATA="))
        for line in re.findall(r"^\S*/(bdiff (?:.*\\\n)*.*)", made.stdout, re.MULTILINE):
            if "run" in (words := shlex.split(line.replace("\\\n", " ")))[:2]:
                check(Command(tuple(words), frozenset()), capsys)
    assert len(targets) > 10


LINK = re.compile(r"\]\(([^)#:]+)(?:#([^)]+))?\)")


def broken_links(text: str, folder: Path) -> list[str]:
    """The links of a text in `folder` that lead to no file, or to no heading of one."""
    broken = []
    for path, anchor in LINK.findall(text):
        page = (folder / path).read_text() if path.endswith(".md") and (folder / path).is_file() else ""
        headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}
        broken += [f"{path}#{anchor}"] if not (folder / path).is_file() or (anchor and anchor not in anchors) else []
    return broken


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert broken_links(text, ROOT) == []
    linked = {path for path, _ in LINK.findall(text)}
    assert linked >= {f"docs/{page.name}" for page in PAGES[1:]}, "every page is linked"


def test_the_figure_of_the_design_shows_what_there_is(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import design

    steps = [name for name, _ in design.STEPS][2:-1]
    source = (ROOT / "bdiff" / "pipeline" / "main.py").read_text().partition("\ndef carried_out(")[2]
    places = [re.search(rf"\b{name}\(", source).start() for name in steps]  # a name that is gone fails here
    assert places == sorted(places)
    text = design.FIGURE.read_text()
    named = [*(name for layer in LAYERS for name in layer if name[0] != "_"), *(name for name, _ in design.STEPS)]
    assert [name for name in named if not re.search(rf"\b{name}\b", text)] == [], "run python scripts/design.py"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_runs_that_need_nothing_are_carried_out(page, clone, tmp_path):
    """Each in miniature: the options of the page, the settings of the smallest run."""
    for words in {words[2:] for words, needs in commands(page, "bdiff") if words[1] == "run" and not needs}:
        if {"--help", "--cfg", "--config-dir", "runtime.plan=true"} & {*words}:
            continue
        chosen = [first_value(word) for word in words if "=" in word and not word.startswith("hydra")]
        chosen = [word for word in chosen if "." not in word.partition("=")[0]]
        options = dict(word.split("=") for word in chosen)
        small = [*DEFENSES.get(options.get("defense"), []), *ATTACKS.get(options.get("attack"), [])]
        small += OTHERS["an amplified trigger"] if "amplify" in options else []
        small += ["pretrain.train.steps=2", "pretrain.train.batch_size=8"] if "pretrain" in options else []
        if options.get("attack") == "none":  # a shield's smallest run is one against an attack
            small = [word for word in small if not word.startswith("attack")]
        small = [word for word in [*TINY, "sample.steps=4", *small] if word.partition("=")[0] not in options]
        settings = {word.partition("=")[0]: word for word in small}
        code = cli.command(["run", *chosen, *settings.values(), f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}"])
        assert code == 0, words


@pytest.mark.slow
def test_the_examples_of_an_audit_run(tmp_path, monkeypatch, capsys):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    monkeypatch.chdir(tmp_path)
    blocks_of_two = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    net = UNet2DModel(8, 1, 1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, **blocks_of_two)
    DDPMPipeline(net, DDPMScheduler(20, beta_end=0.6)).save_pretrained("downloaded")
    page = ROOT / "docs" / "audit.md"
    ((needs, text),) = blocks(page, "python")
    assert needs == {"files"}
    exec(compile(text, str(page), "exec"), {})
    assert capsys.readouterr().out.count("False") == 1 and Path("trigger.png").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("sphinx"), reason="building the site needs sphinx: make setup")
def test_the_site_loads_nothing_from_elsewhere(tmp_path):
    words = [
        "-m",
        "sphinx",
        "--quiet",
        "--fail-on-warning",
        "-d",
        tmp_path / "doctrees",
        ROOT / "docs",
        tmp_path / "site",
    ]
    built = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]*\bsrc=\"(?:https?:)?//|<link[^>]*\bhref=\"(?:https?:)?//"
                       r"|@import|url\([\"']?(?:https?:)?//")  # fmt: skip
    files = [path for path in (tmp_path / "site").rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > len(PAGES)
    assert [path.name for path in files if loads.search(path.read_text())] == []
