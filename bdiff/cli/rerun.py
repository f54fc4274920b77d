"""`bdiff rerun <run folder>`: repeat a run from its saved config, which is treated as data."""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdiff.cli.plan import print_plans
from bdiff.cli.run import closing, heed_quiet, scratch_folder, terminal
from bdiff.common.errors import RequestError, one_line
from bdiff.common.places import is_file
from bdiff.common.spelling import did_you_mean
from bdiff.config.compose import jobs
from bdiff.config.keys import leaves
from bdiff.config.renamed import rename
from bdiff.config.validate import value_problem, value_problems
from bdiff.config.words import normal
from bdiff.report.runs import read

USAGE = "use bdiff rerun <run folder> [key=value ...] [--quiet]"


def rerun(words: list[str]) -> int:
    """Run the config.yaml of a run folder, with the values in `words` changed, in a new run folder."""
    if {"-h", "--help"} & {*words}:
        print(USAGE)
        return 0
    words = heed_quiet(words)
    if not words or "=" in words[0]:
        raise RequestError(USAGE)
    source, changes = Path(words[0]), words[1:]
    config = saved(source)
    apply(config, changes)
    problems = value_problems(config, OmegaConf.create({}))
    if problems:
        raise RequestError(*problems)
    if config.runtime.get("plan"):
        print_plans(terminal(), [config], [config.name])
        return 0
    record = read(source).record if is_file(source / "metrics.json") else {}
    day, clock = time.strftime("%Y-%m-%d"), time.strftime("%H-%M-%S")
    folder = Path(config.paths.outputs) / "runs" / day / f"{clock}-{time.time_ns() // 1000 % 10**6:06d}-{config.name}"
    from bdiff.launch.job import job

    scratch = scratch_folder()
    made = job(config, scratch or folder, [*record.get("overrides", []), *changes], record.get("choices", {}))
    if not scratch:
        closing(made)
    return 0


def saved(folder: Path) -> DictConfig:
    """Return the config of a run folder. RequestError if there is none, or it is not of this version."""
    path = folder / "config.yaml"
    if not is_file(path):
        raise RequestError(f"{folder} is not a run folder: it has no config.yaml")
    try:
        config: Any = OmegaConf.load(path)
    except Exception as error:  # yaml and OmegaConf raise many types; each means that the file is not a config
        raise RequestError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise RequestError(f"{path} has no config")
    rename(config)
    (base,) = jobs([], False)
    today = OmegaConf.masked_copy(base, [str(name) for name in base if name not in ("hydra", "name", "published")])
    lacking = {str(name) for name in base} - {"hydra"} - {str(name) for name in config}
    if lacking:
        names = ", ".join(sorted(lacking))
        raise RequestError(f"{path} lacks {names}: it was not written by this version of bdiff")
    if "${" in path.read_text():
        raise RequestError(f"{path} refers to other values (${{...}}); a saved config has only plain values")
    groups = [str(name) for name, part in today.items() if isinstance(part, DictConfig)]
    wrong = [name for name in groups if not isinstance(config[name], DictConfig)]
    if wrong:
        raise RequestError(f"{path}: {wrong[0]} has another meaning in this version of bdiff")
    if not folder.resolve().is_relative_to(Path(config.paths.outputs).resolve()):  # a run from elsewhere
        config.paths = today.paths
    return config


def apply(config: DictConfig, changes: list[str]) -> None:
    """Set the values that `changes` (key=value) name. RequestError for a key that the config does not have."""
    known, before = leaves(config), config.copy()
    for word in map(normal, changes):
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            raise RequestError(f"{word} is not known{did_you_mean(key, known)}: {USAGE}, with keys of its config.yaml")
        try:
            OmegaConf.update(config, key, OmegaConf.from_dotlist([f"value={text}"]).value)
        except (OmegaConfBaseException, ValueError) as error:
            raise RequestError(f"{word}: {one_line(error)}") from error
        if problem := value_problem(key, config, before):
            raise RequestError(problem)
