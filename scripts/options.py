"""Write docs/options.md, the options of every group and their settings: python scripts/options.py"""

from collections.abc import Iterator
from itertools import takewhile, zip_longest
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bdiff.config.options import CONF, group_options
from bdiff.config.plugins import PACKAGE
from bdiff.config.validate import parts_of
from bdiff.report.options import Line, line_of, node_of, settings_of

DOCS = Path(__file__).parents[1] / "docs" / "options.md"
HEAD = """# Options

Made by `python scripts/options.py` from conf/ and from what the parts declare; `bdiff run <group>=<option> --help`
prints the same of one option. Where options share a table, the default is the first's, and others' stand behind it.
"""
ROWS = "experiment"  # of published tables: they choose among the options of the other groups


def page() -> str:
    """Return docs/options.md."""
    with initialize_config_module(PACKAGE, version_base="1.3"):
        config = composed()
        defaults = {"name": "<attack>-<data>-<trigger>-<target>", "seed": config.seed}
        top = [line for name, value in defaults.items() if (line := line_of(config, name, value))]
        top += [line for name in ("paths", "sweep") for line in settings_of(config, name)]
        parts = [HEAD, "## Without a group\n", table({"": {line.key: line for line in top}})]
        for group, configs in each().items():
            parts += [f"## {group}\n", *section(group, configs)]
    return "\n".join(parts)


def composed(*words: str) -> DictConfig:
    """Return the config that overrides lead to."""
    config = compose("config", list(words), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def each() -> dict[str, dict[str, DictConfig]]:
    """Return a config with each option of each group; the first options of all groups share one, and so on."""
    groups = {group: [*options] for group, options in group_options().items() if not group.startswith(ROWS)}
    alone = {option: composed(f"pretrain={option}") for option in groups.pop("pretrain")}  # which changes the model too
    found: dict[str, dict[str, DictConfig]] = {group: {} for group in groups}
    for options in zip_longest(*groups.values()):
        chosen = {group: option for group, option in zip(groups, options, strict=True) if option}
        config = composed(*(f"{group}={option}" for group, option in chosen.items()))
        for group, option in chosen.items():
            found[group][option] = config
    return found | {"pretrain": alone}


def section(group: str, configs: dict[str, DictConfig]) -> Iterator[str]:
    """Yield the options of a group, and the settings of those that have the same."""
    about, alike = ["| option | what it is |", "| --- | --- |"], {}
    for option, config in configs.items():
        node = OmegaConf.select(config, node_of(group))
        about.append(f"| `{option}` | {told(CONF / group / f'{option}.yaml', node)} |")
        lines = {line.key: line for line in settings_of(config, group)}
        alike.setdefault(tuple((line.key, line.values, line.help) for line in lines.values()), {})[option] = lines
    yield "\n".join(about) + "\n"
    for shared in (shared for keys, shared in alike.items() if keys):
        yield f"Settings of {', '.join(f'`{option}`' for option in shared)}:\n"
        yield table(shared)


def told(path: Path, node: DictConfig) -> str:
    """Return what an option is: the words at the top of its file, or of the first part that it names."""
    comments = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    words = " ".join(line.removeprefix("#").strip() for line in comments if "@package" not in line)
    return words or next((part.doc for _, part in parts_of(node)), "")


def table(shared: dict[str, dict[str, Line]]) -> str:
    """Return the settings of options of one part as a table of Markdown."""
    keys = dict.fromkeys(key for lines in shared.values() for key in lines)
    rows = ["| setting | default | values | meaning |", "| --- | --- | --- | --- |"]
    for key in keys:
        has = {option: lines[key] for option, lines in shared.items() if key in lines}
        first = next(iter(has.values()))
        others = [f"{option}: `{line.default}`" for option, line in has.items() if line.default != first.default]
        default = f"`{first.default}`" + (f" ({', '.join(others)})" if others else "")
        rows.append(f"| `{key}` | {default} | {first.values} | {first.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    DOCS.write_text(page())
