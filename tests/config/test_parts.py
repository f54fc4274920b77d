"""What parts declare is read from their source: of bdiff, and of any package that can be found; nothing is imported."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, ListConfig, open_dict

from bdiff.config import instantiate, validate
from bdiff.config.compose import PACKAGE
from bdiff.config.parts import describe
from bdiff.config.validate import value_problem, value_problems
from bdiff.metric.fid.protocol import PRESETS
from bdiff.report.options import settings_of

#: a package that must not be imported to be read
FILES = {
    "__init__.py": "raise ImportError('the package was imported')",
    "words.py": "TONES = ('loud', 'soft')\nALL = (*TONES, 'mute')",
    "base.py": """
        from dataclasses import dataclass
        from typing import Annotated, Any
        import torch.nowhere
        from bdiff.config.rules import above, at_least
        from .words import ALL as KNOWN

        @dataclass(frozen=True)
        class Inner:
            width: Annotated[int, at_least(2), "px"]

        @dataclass(frozen=True)
        class Around:
            inner: Annotated[Inner, "what is inside"]
            images: Annotated[float | None, above(0), at_least(1), "of whatever"]

        class Base(torch.nowhere.Module):
            settings = Around
            checks = ("parts_of_mine.checks.never",)

            def __init__(self, trigger, mode: Annotated[str, one_of(*KNOWN), "how it sounds"] = "loud"):
                raise RuntimeError
    """,
    "attack.py": """
        from dataclasses import dataclass
        from typing import Annotated, Any
        from bdiff.config import rules
        from bdiff.attack.base import Attack
        from parts_of_mine import base

        class Heir(base.Base, Attack):
            '''An attack.

            Of two lines.
            '''
            checks = ("parts_of_mine.checks.never", "parts_of_mine.checks.twice")
            version = 3

        class Younger(Heir): ...

        class Passing(base.Base):
            def __init__(self, rate: Annotated[float, rules.fraction, "of rows"], **others): ...

        @dataclass
        class Record:
            first: Annotated[list[int], "numbers"]
            passed: int

        @dataclass
        class Longer(Record):
            any: Annotated[Any, "of any kind"]

        def function(size: int, *, side: Annotated[int | None, rules.at_least(1), "px"] = None): ...

        class Maker:
            def __init__(self, name: Annotated[str, "no setting of what it makes"]): ...
            def __call__(self, *, cache, limit: Annotated[int, "images"]): ...

        made = Maker("name")
        number = 3
    """,
    "checks.py": """
        def never(config, key):
            return []

        def twice(config, key):
            return [f"{key}.mode={config.attack.mode} is refused"] if config.attack.mode == "mute" else []
    """,
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The package `parts_of_mine` on the path, its attack one that a config may name."""
    home = tmp_path / "parts_of_mine"
    home.mkdir()
    for name, text in FILES.items():
        text = textwrap.dedent(text).replace("import above, at_least", "import above, at_least, one_of")
        (home / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    known = {*instantiate.ours(), "parts_of_mine.attack.Heir"}
    for module in (instantiate, validate):
        monkeypatch.setattr(module, "ours", lambda: known)
    yield home
    imported = [name for name in sys.modules if name.partition(".")[0] == home.name]
    for name in imported:
        del sys.modules[name]
    assert {*imported} <= {"parts_of_mine", "parts_of_mine.checks"}


def composed(*words: str) -> DictConfig:
    """The config that overrides lead to."""
    with initialize_config_module(PACKAGE, version_base="1.3"):
        return compose("config", [*words, "name=test"])


DECLARED = [
    ("Heir", {"mode": (str,), "inner": (DictConfig,), "images": (float, type(None))}, {"trigger"}),
    ("Passing", {"rate": (float,), "mode": (str,), "inner": (DictConfig,), "images": (float, type(None))}, {"trigger"}),
    ("Longer", {"first": (ListConfig,), "any": ()}, {"passed"}),
    ("function", {"side": (int, type(None))}, {"size"}),
    ("made", {"limit": (int,)}, {"cache"}),
]


@pytest.mark.parametrize(("name", "settings", "given"), DECLARED, ids=[row[0] for row in DECLARED])
def test_a_part_of_any_package_is_read_without_being_imported(name, settings, given, mine):
    part = describe(f"parts_of_mine.attack.{name}")
    assert {key: one.types for key, one in part.settings.items()} == settings and part.given == given
    assert all(one.help for one in part.settings.values())
    inner = part.settings.get("inner")
    assert inner is None or inner.part.settings["width"].words == "whole number, at least 2"


def test_an_attack_is_reported_by_its_bases_and_its_doc(mine):
    part = describe("parts_of_mine.attack.Heir")
    assert part.bases == ("parts_of_mine.base.Base", "bdiff.attack.base.Attack", "torch.nowhere.Module", "abc.ABC")
    assert part.doc == "An attack." and part.checks[:2] == ("parts_of_mine.checks.never", "parts_of_mine.checks.twice")
    assert part.checks[2:] == describe("bdiff.attack.base.Attack").checks != ()
    assert "learns_on_model" in part.flags and "needs_surrogate" not in part.flags
    names = ("Heir", "Younger", "Passing", "function")
    heir, *others = (describe(f"parts_of_mine.attack.{name}").versions for name in names)
    assert heir == ("version = 3", "version: ClassVar[int] = 1", "learn_version: ClassVar[int] = 1")
    assert others == [heir, (), ()]
    method, _ = describe("bdiff.defense.detection.purediffusion.PureDiffusion").versions
    assert method.startswith("@property\ndef version(") and "return 3" in method
    assert part.settings["mode"].words == "loud, soft, mute"  # through an import and a star


@pytest.mark.parametrize("path", ["parts_of_mine.attack.number", "parts_of_mine.nowhere.At", "nowhere.At", "At"])
def test_what_is_no_part_declares_nothing(path, mine):
    assert describe(path).settings is None


def heirs(**changed) -> DictConfig:
    """A config whose attack is that of the package."""
    config = composed()
    with open_dict(config):
        attack = {"_target_": "parts_of_mine.attack.Heir", "mode": "soft", "inner": {"width": 3}, "images": None}
        config.attack = attack | changed
    return config


def test_a_setting_is_judged_by_its_own_part_alone(mine):
    base, theirs = heirs(), composed("attack=diff2")
    for mode, wrong in (("mute", None), ("redirect", "is not known (choose from loud, mute, soft)")):
        message = value_problem("attack.mode", heirs(mode=mode), base)
        assert message == (wrong and f"attack.mode={mode} {wrong}")
    for mode, wrong in (("redirect", None), ("mute", "is not known")):
        theirs.attack.mode = mode
        message = value_problem("attack.mode", theirs, theirs)
        assert (message is None) if wrong is None else (wrong in message and "preserve, redirect" in message)


def test_all_that_is_wrong_with_a_part_is_reported_together(mine):
    wrong = heirs(mode="redirect", inner={"width": 1}, images="many")
    assert [line.partition(" ")[0] for line in value_problems(wrong, heirs())] == [
        "attack.mode=redirect",
        "attack.inner.width=1",
        "attack.images=many",
    ]
    (mine / "__init__.py").write_text("")  # from here on its checks are imported, as they say they can be
    assert value_problems(heirs(mode="mute"), heirs()) == ["attack.mode=mute is refused"]
    assert value_problems(heirs(), heirs()) == []


def test_a_key_of_a_yaml_that_its_part_does_not_take_is_reported(mine):
    (mine / "__init__.py").write_text("")
    config = heirs(mood="soft")
    assert value_problems(config, config) == [
        "attack.mood is not known; did you mean attack.mode? (attack has images, inner, mode)"
    ]


def test_the_settings_of_a_part_are_shown_as_they_are_declared(mine):
    config = heirs()
    with open_dict(config):
        config.hydra = {"runtime": {"choices": {"attack": "heir", "metric/fid": "none"}}}
    assert [tuple(line) for line in settings_of(config, "attack")] == [
        ("attack.mode", "soft", "loud, soft, mute", "how it sounds"),
        ("attack.inner.width", "3", "whole number, at least 2", "px"),
        ("attack.images", "null", "number, above 0, at least 1, or null", "of whatever"),
    ]


def test_no_part_is_imported_to_be_described():
    code = (
        "import sys\nfrom bdiff.config.instantiate import ours\nfrom bdiff.config.parts import describe\n"
        "from bdiff.config.validate import SECTIONS\n"
        "parts = [describe(path) for path in {*ours(), *SECTIONS.values()}]\n"
        "assert all(part.settings is not None and part.doc for part in parts)\n"
        "print(sorted({'torch', 'numpy', 'bdiff.pipeline', 'bdiff.attack'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer


def test_protocols_are_those_that_there_are():
    (rule,) = describe("bdiff.metric.fid.protocol.Distance").settings["protocol"].rules
    assert rule.words == ", ".join(PRESETS)


def test_the_docs_tables_are_those_of_today(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    import options

    assert options.DOCS.read_text() == options.page(), "run python scripts/options.py"
