"""The settings of an option, as its part declares them: for `bdiff run --help` and docs/options.md."""

from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from rich.box import HEAVY_HEAD
from rich.table import Table

from bdiff.config.keys import leaves
from bdiff.config.validate import declaration


class Line(NamedTuple):
    """One setting."""

    key: str
    default: str
    values: str  # that it accepts
    help: str


def node_of(group: str) -> str:
    """Return the dotted key that a group's option is composed at."""
    return group.rpartition("@")[2].replace("/", ".")


def settings_of(config: DictConfig, group: str) -> list[Line]:
    """Return every declared setting of the option that `config` has of a group, without those of nested groups."""
    key = node_of(group)
    node = OmegaConf.select(config, key)
    if not isinstance(node, DictConfig):
        return []
    groups = (node_of(name) for name in config.hydra.runtime.choices if "@" not in name)
    within = tuple(f"{inner}." for inner in groups if inner.startswith(f"{key}."))
    found = (line_of(config, *item) for item in leaves(node, f"{key}.").items() if not item[0].startswith(within))
    return [line for line in found if line]


def line_of(config: DictConfig, key: str, value: Any) -> Line | None:
    """Return the setting at a key, whose default is `value`; None if it is undeclared, or an empty group."""
    if (setting := declaration(config, key)) is None or value == {}:
        return None
    words = [setting.words, *["null"] * (setting.optional and "null" not in setting.words)]
    return Line(key, as_typed(value), ", or ".join(filter(None, words)), setting.help)


def as_typed(value: Any) -> str:
    """Return a value as written in an override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)


def settings_table(title: str, lines: list[Line], framed: bool) -> Table:
    """Return the settings as a table for the terminal; without a frame if piped."""
    table = Table(title=title, title_justify="left", box=HEAVY_HEAD if framed else None)
    for head in ("option", "default", "values", "meaning"):
        table.add_column(head, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table
