"""What is wrong with a request, found before torch is imported and all told together, one line per problem."""

import difflib
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdiff.common.errors import RequestError, one_line
from bdiff.common.spelling import nearest
from bdiff.config.keys import added_problems, children, leaves, settings, unknown
from bdiff.config.rules import OPTIONAL, RULES
from bdiff.config.validate import value_problems

PACKAGE = "bdiff.conf"
CONF = Path(str(resources.files(PACKAGE)))

#: options of Hydra's that a request, or a sweep, goes without, and why
REFUSED = {
    "hydra.job.chdir": "each job of a sweep would take paths for others than the ones typed: leave it out",
    "hydra.mode": "a sweep is bdiff run -m, and one run is bdiff run: leave it out",
}

#: what stands in conf/config.yaml itself
OURS = ("name", "paths", "sweep")

#: what an override's value consists of, between commas, brackets and quotes
PIECE = re.compile(r"""\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|(?:\\.|[^,\[\](){}"'\\])+""")


def jobs(overrides: list[str], multirun: bool) -> list[DictConfig]:
    """Return the composed config of each job that `overrides` ask for. Raises RequestError with every problem."""
    configs, problems, usable = [], [], []
    overrides = written_out(overrides) if multirun else [normal(word) for word in overrides]
    with initialize_config_module(PACKAGE, version_base="1.3"):
        groups = group_options()
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for text in overrides:
            try:
                (override,) = parser.parse_overrides([text])
            except HydraException:
                problems.append(unreadable(text))
                continue
            told = override_problems(override, groups, multirun)
            problems += told
            usable += [] if told else [override]
        lines = [[one.input_line or "" for one in usable]]
        for line in BasicSweeper.split_arguments(usable, max_batch_size=None)[0] if multirun else lines:
            job = parser.parse_overrides(line)
            config, told = one_job(job, groups)
            problems += told
            if config is not None:
                problems += sweep_problems(config, job)
                configs.append(config)
    if problems:
        raise RequestError(*dict.fromkeys(problems))
    return configs


def written_out(overrides: list[str]) -> list[str]:
    """Return a sweep's overrides behind those that its options bring in hydra.sweeper.params; the typed ones win.

    An experiment that brings nothing but a sweep stands for its words, and the jobs do not name it.
    """
    words, groups = [normal(word) for word in overrides], group_options()
    with initialize_config_module(PACKAGE, version_base="1.3"):
        known = [override for word in words if (override := readable(word))]
        whole = [one for one in known if not one.is_sweep_override() and chooses(one, groups)]
        try:
            brought = defaults(tuple(one.input_line or "" for one in whole))
            bare = defaults(tuple(one.input_line or "" for one in whole if one.key_or_group != "experiment"))
        except (HydraException, OmegaConfBaseException):  # the checks of the request tell
            return words
    if swept(brought) and of_jobs(brought) == of_jobs(bare):
        words = [word for word in words if word.partition("=")[0] != "experiment"]
    return [*(normal(f"{key}={value}") for key, value in swept(brought).items()), *words]


def readable(word: str) -> Override | None:
    """Return a word as an override, or None where it is none."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def chooses(override: Override, groups: dict[str, list[str]]) -> bool:
    """Return whether an override names an option that there is, or is one of Hydra's own."""
    key = override.key_or_group
    return override.get_value_element_as_str() in groups[key] if key in groups else bool(re.match(r"hydra\b", key))


def swept(config: DictConfig) -> dict[str, str]:
    """Return the overrides that a config brings for a sweep, by their keys."""
    return dict(config.hydra.sweeper.get("params") or {})


def of_jobs(config: DictConfig) -> dict[str, Any]:
    """Return what a config says of each job of a sweep."""
    plain: Any = OmegaConf.to_container(config)
    return {name: value for name, value in plain.items() if name != "hydra"}


def sweep_problems(config: DictConfig, overrides: list[Override]) -> list[str]:
    """Return what is wrong with a job whose options bring a sweep that its `overrides` are no job of."""
    typed = {override.get_key_element() for override in overrides}
    if swept(config).keys() <= typed:
        return []
    option = config.hydra.runtime.choices.get("experiment")
    about = f"experiment={option}" if option else "hydra.sweeper.params"
    return [f"{about} is a sweep: say bdiff run -m, with no other experiment beside it"]


def normal(word: str) -> str:
    """Return an override with ~ expanded, and the authors' spelling of an option (BOX_14) in ours (box_14)."""
    key, equals, value = word.partition("=")
    if equals and key in ("trigger", "target", "attack", "data"):
        return f"{key}={value.lower()}"
    return f"{key}={PIECE.sub(at_home, value)}" if equals else word


def at_home(piece: re.Match[str]) -> str:
    """Return a piece of an override's value, an absolute path if it begins with ~: a shell expands none behind a =."""
    text = re.sub(r"\\(.)", r"\1", piece[0].strip("\"'"))
    if not text.startswith("~"):
        return piece[0]
    try:
        return quoted(Path(text).expanduser())
    except RuntimeError:  # no such home; the request's checks tell
        return piece[0]


def quoted(path: str | Path) -> str:
    """Return a path as a value in Hydra's override grammar, where backslashes count before a quote alone."""
    text = re.sub(r'(\\*)"', r'\1\1\\"', str(path))
    last = len(text) - len(text.rstrip("\\"))
    return '"' + text + "\\" * last + '"'


def unreadable(text: str) -> str:
    """Return what is wrong with an override that Hydra's grammar does not know."""
    shape = "quote special characters, as in 'key=\"a,b\"'" if "=" in text[1:] else "write key=value"
    return f"{text!r} cannot be read: {shape}"


def override_problems(override: Override, groups: dict[str, list[str]], multirun: bool) -> list[str]:
    """Return what is wrong with an override by itself: no key, an option that does not exist, a sweep without -m."""
    key = override.key_or_group
    if not key:
        return [unreadable(override.input_line or "")]
    group, _, folder = key.partition("/")
    if key not in groups and any(option.startswith(f"{folder}/") for option in groups.get(group, [])):
        return [f"{key} is a folder of options: write {group}={folder}/{override.get_value_element_as_str()}"]
    sweep = override.is_sweep_override()
    if sweep and not override.is_discrete_sweep():
        return [f"{override.input_line} is an endless sweep: list the values, as in {key}=1,2,3"]
    if (told := REFUSED.get(key)) and (multirun or key != "hydra.job.chdir"):
        return [f"{override.input_line}: {told}"]
    if key.partition(".")[0] == "hydra" and (override.is_delete() or (override.value() is None and given(key))):
        return [f"{override.input_line} takes out what Hydra needs: leave it out, or give {key} a value"]
    if override.is_delete():
        needed = key in groups or key in RULES or key in OPTIONAL or key.partition(".")[0] in OURS
        return [f"{override.input_line} takes out what a run needs: give {key}=<value> instead"] if needed else []
    problems = []
    if key in groups:
        none = ["null"] if defaults(()).hydra.runtime.choices.get(key) is None else []
        chosen = list(override.sweep_string_iterator()) if sweep else [override.get_value_element_as_str()]
        wrong = [option for option in chosen if option not in groups[key] + none]
        problems = [f"{key}={option} {nearest(option, same_folder(option, groups[key]))}" for option in wrong]
        if not chosen:
            problems = [f"{override.input_line} matches nothing: list the options, as in {key}={groups[key][0]}"]
    if sweep and not multirun:
        problems.append(f"{override.input_line} asks for several values: that is a sweep, say bdiff run -m")
    return problems


def one_job(overrides: list[Override], groups: dict[str, list[str]]) -> tuple[DictConfig | None, list[str]]:
    """Return the config that one job's `overrides` compose to, if they do, and what is wrong with it."""
    problems: list[str] = []
    try:
        base = defaults(tuple(one.input_line or "" for one in overrides if one.key_or_group in groups))
        HydraConfig.instance().set_config(base)
        usable = []
        for override in overrides:
            told = key_problems(override, base, groups)
            problems += told
            usable += [] if told else [override.input_line or ""]
        config = compose("config", usable, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return config, problems + added_problems(config, base) + value_problems(config, base)
    except (HydraException, OmegaConfBaseException) as error:
        return None, [*problems, one_line(error)]


def same_folder(option: str, options: list[str]) -> list[str]:
    """Return those of a group's `options` that stand in the folder that `option` means, if it is seen which."""
    folders = {one.partition("/")[0] for one in options if "/" in one}
    (folder,) = difflib.get_close_matches(option.partition("/")[0], folders, n=1) or [""]
    return [one for one in options if one.startswith(f"{folder}/")] or options


def given(key: str) -> bool:
    """Return whether a key of Hydra's has a value by default, which may be one that only a run can resolve."""
    parent, _, name = key.rpartition(".")
    holder = OmegaConf.select(defaults(()), parent)
    node = holder._get_node(name) if isinstance(holder, DictConfig) else None
    return isinstance(node, Node) and node._value() is not None


@cache
def defaults(choices: tuple[str, ...]) -> DictConfig:
    """Compose the config that the given group choices lead to."""
    return compose("config", list(choices), return_hydra_config=True)


def group_options() -> dict[str, list[str]]:
    """Return bdiff's config groups and the options of each; a folder in a group makes options like folder/option."""
    listed = OmegaConf.load(CONF / "config.yaml").defaults
    groups = {str(name) for entry in listed if isinstance(entry, DictConfig) for name in entry}
    found: dict[str, list[str]] = {}
    for path in sorted(CONF.glob("*/**/*.yaml")):
        name = path.relative_to(CONF).with_suffix("")
        if name.parts[0] == "hydra":  # launchers: Hydra and its plugins have more of them
            continue
        group = next((parent for parent in name.parents if parent.as_posix() in groups), name.parent)
        found.setdefault(group.as_posix(), []).append(name.relative_to(group).as_posix())
    return found


def key_problems(override: Override, base: DictConfig, groups: dict[str, list[str]]) -> list[str]:
    """Return what is wrong with an override's key: no such key in `base`, when it is not meant to be new."""
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or key in groups or re.match(r"hydra\b", key):
        return []
    there = leaves(base)
    if key in there or (override.is_delete() and any(name.startswith(f"{key}.") for name in there)):
        return []
    known = settings(base) | set(groups)
    if (group := key.replace(".", "/")) in groups:
        return [f"{key} is a group: write {group}= (choose from {', '.join(groups[group])})"]
    if inner := children(known, key):
        return [f"{key} holds settings: set one, as in {key}.{min(inner)}="]
    for group in (name for name in groups if name != "experiment"):  # its options set keys of all others
        if others := [option for option in groups[group] if key in keys_of(group, option)]:
            chosen = base.hydra.runtime.choices[group]
            return [f"{key} is not known with {group}={chosen}: it belongs to {group}={' or '.join(others)}"]
    return [unknown(key, known)]


def keys_of(group: str, option: str) -> set[str]:
    """Return the dotted keys that a group's option itself brings."""
    brought = OmegaConf.load(CONF / group / f"{option}.yaml")
    return set(leaves(brought, f"{group.replace('/', '.')}.")) if isinstance(brought, DictConfig) else set()
