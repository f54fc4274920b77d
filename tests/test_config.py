"""Every option under conf/, found by listing the folder: it composes, and its code takes what its yaml says."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from bdiff.config.compose import jobs
from bdiff.config.instantiate import make, ours
from bdiff.config.keys import leaves
from bdiff.config.options import PACKAGE
from bdiff.config.parts import describe
from bdiff.config.validate import SECTIONS, declaration, part_of, untaken, value_problem
from bdiff.defense.base import Defense, Detection, Removal
from bdiff.pipeline import suspect

CONF = Path(__file__).parents[1] / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.parent != CONF)
LISTED = [next(iter(one)) for one in OmegaConf.load(CONF / "config.yaml").defaults if isinstance(one, DictConfig)]


def place(path: Path) -> tuple[str, str]:
    """A file's group, the nearest folder that the defaults list, and the option that it is there."""
    group = next((folder for folder in path.parents if folder.as_posix() in LISTED), path.parent)
    return group.as_posix(), path.relative_to(group).with_suffix("").as_posix()


OPTIONS = [place(path) for path in FILES]

#: groups whose options are code of ours, and what is given to it beside the yaml's keys
OURS: dict[str, set[str]] = {
    "amplify": {"inversion"},
    "attack": {"trigger", "target"},
    "classifier": set(),
    "data": {"cache", "seed", "memory"},
    "defense": set(),
    "defense/removal": set(),
    "metric/fid": {"classifier", "facts"},
    "target": {"size", "trigger"},
    "tracker": set(),
    "trigger": {"size"},
}
#: groups whose options are lists of other settings, or parts of Hydra's own
LISTS = ("experiment", "hydra/launcher")
#: what every run gives to nested parts
GIVEN = {"channels", "classes"}


def options(group: str) -> list[str]:
    """The options of a group."""
    return [option for name, option in OPTIONS if name == group]


@cache
def composed(*overrides: str) -> DictConfig:
    """The config that `overrides` lead to, without the checks of a request (null paths are fine here)."""
    with initialize_config_module(PACKAGE, version_base="1.3"):
        return compose("config", [*overrides, "name=test"])


def choices(*overrides: str) -> dict[str, str]:
    """The option of every group that `overrides` lead to."""
    with initialize_config_module(PACKAGE, version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    return dict(config.hydra.runtime.choices)


def parts(config: Any) -> Iterator[dict[str, Any]]:
    """Every config in `config` with a `_target_`, nested ones too, as plain values."""
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config)
    if isinstance(config, dict):
        if config.get("_target_"):
            yield config
        for value in config.values():
            yield from parts(value)


def parameters(made: Any) -> dict[str, inspect.Parameter]:
    """What a part takes by name; a constructor that hands **options to its base's takes those too."""
    own = dict(inspect.signature(made).parameters)
    if not inspect.isclass(made) or all(one.kind is not one.VAR_KEYWORD for one in own.values()):
        return own
    return parameters(made.__base__) | {name: one for name, one in own.items() if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("group", "option"), [one for one in OPTIONS if one[0] not in ("experiment", "hydra/launcher")]
)
def test_an_option_composes_and_its_code_takes_its_keys(group, option):
    config = composed(f"{group}={option}")
    given = GIVEN.union(*(names for name, names in OURS.items() if name.startswith(group)))
    for part in parts(OmegaConf.select(config, group.replace("/", "."))):
        made = get_object(part["_target_"])
        known = parameters(made)
        around = {field.name for field in fields(made.settings)} if getattr(made, "settings", None) else set()
        assert not around & known.keys(), f"{part['_target_']} never gets {around & known.keys()}"
        keys = part.keys() - {"_target_", "removal"} - around
        assert keys <= known.keys(), f"{part['_target_']} does not take {keys - known.keys()}"
        needed = {name for name, one in known.items() if one.default is one.empty and one.kind is not one.VAR_KEYWORD}
        assert needed <= keys | given, f"{part['_target_']} needs {needed - keys - given}"


@pytest.mark.parametrize(("group", "option"), [one for one in OPTIONS if one[0] in OURS])
def test_conf_mirrors_the_package(group, option):
    path = CONF / group / f"{option}.yaml"
    config = OmegaConf.load(path)
    targets = [part["_target_"] for part in parts(config)]
    package = "defense" if group == "defense/removal" else group  # a removal is any repair, used after an audit
    assert all(target.startswith(f"bdiff.{package.replace('/', '.')}.") for target in targets)
    listed = [entry for entry in config.get("defaults", []) if isinstance(entry, str)]
    taken = {(Path("/", group) / entry.partition("@")[0]).as_posix() for entry in listed}
    variant = taken & {f"/{name}/{one}" for name, one in OPTIONS if name in (group, package)}
    assert targets or "_target_: null" in path.read_text() or variant


def test_every_folder_of_options_is_a_group_of_the_defaults():
    assert {group for group, _ in OPTIONS} <= {*LISTED, "hydra/launcher"}  # Hydra's own group, which it lists itself
    assert ("experiment", "clipping/box_14-corner-p90-on") in OPTIONS


def presets(data: str) -> dict[str, str]:
    """The options that a dataset's file picks, or the file that it builds on."""
    picked = {}
    for entry in OmegaConf.load(CONF / "data" / f"{data}.yaml").defaults:
        if isinstance(entry, DictConfig):
            ((key, option),) = entry.items()
            picked[key.removeprefix("override /").partition("@")[0]] = option
        elif entry != "_self_":
            picked |= presets(entry)
    return picked


@pytest.mark.parametrize("data", options("data"))
def test_data_picks_presets_that_are_there_and_the_command_line_wins(data):
    picked = presets(data)
    assert picked.keys() - {"defense/removal", "trigger"} == {"model", "schedule", "train", "sample", "metric/fid"}
    assert choices(f"data={data}").items() >= picked.items()
    others = {group: next(one for one in options(group) if one != option) for group, option in picked.items()}
    words = [f"{group}={option}" for group, option in others.items()]
    for line in ([f"data={data}", *words], [*words, f"data={data}"]):
        assert choices(*line).items() >= others.items()


#: where keys are free: notes, what diffusers' parts take, and what a calibration was found with
FREE = re.compile(r"published\.|sampler\.scheduler\.|model\.unet\.|.*\.calibration\.settings\.")


def sound(*overrides: str) -> set[tuple[str, str]]:
    """What `overrides` lead to is found to be as declared; returns the part and the name of every setting met."""
    config = composed(*overrides)
    met = set()
    for key in leaves(config):
        parent, _, name = key.rpartition(".")
        if name == "_target_" or FREE.match(key):
            continue
        setting, part = declaration(config, key), part_of(config, parent)
        assert part and setting and setting.help, f"{key} has no declaration with a line of help"
        assert (message := value_problem(key, config, config)) is None, message
        met.add((part.path, name))
    assert not [*untaken(config, [*leaves(config)])]
    return met


def declared(path: str) -> set[tuple[str, str]]:
    """The part and the name of every setting that a part declares, nested ones too, but for groups that are free."""
    found = set()
    for name, setting in describe(path).settings.items():
        if setting.part:
            found |= declared(setting.part.path)
        elif DictConfig not in setting.types:
            found.add((path, name))
    return found


def test_every_key_of_conf_is_declared_and_every_declared_setting_has_a_key():
    met = set().union(
        *(sound(f"{group}={option}") for group, option in OPTIONS if group not in ("experiment", "hydra/launcher"))
    )
    met |= sound("classifier@surrogate=timm")
    expected = set().union(*map(declared, {*SECTIONS.values(), *ours()}))
    assert expected <= met, expected - met


@pytest.mark.parametrize("data", ["digits", "cifar10"])
@pytest.mark.parametrize("defense", options("defense"))
def test_a_defense_is_made_from_what_its_yaml_says_and_a_request_for_it_is_sound(defense, data):
    start = "digits" if defense == "weight_averaging" else "none"  # it needs a model to train from
    words = [f"data={data}", f"defense={defense}", f"pretrain={start}", "amplify=purediffusion"]
    (config,) = jobs(words, multirun=False)
    if config.defense._target_:
        assert isinstance(suspect.method(config.defense), Defense)
    removal = suspect.method(config.defense.removal)
    assert isinstance(removal, Removal)
    assert isinstance(suspect.method(config.amplify.inversion), Detection)
    assert config.defense.removal.train.epochs == 11
    assert (config.defense.removal.train.steps is None) == (data == "cifar10")  # the digits' preset overrides epochs


def test_presets_for_cifar10_fit_together_and_keep_what_the_options_they_build_on_choose():
    shields = ("purification_cifar10", "certification_cifar10")
    configs = [jobs(["data=cifar10", "attack=diff2_cifar10", f"defense={name}"], multirun=False)[0] for name in shields]
    purified, certified = configs
    assert choices("data=cifar10", "attack=diff2_cifar10")["trigger"] == "universal"
    assert purified.trigger == certified.trigger == composed("trigger=universal").trigger
    assert purified.defense.t in purified.attack.t and certified.defense.sigma == certified.attack.sigma
    assert 255 * purified.attack.eta == 255 * purified.attack.eps == pytest.approx(16, abs=0.02)
    adversary = purified.defense.adversary
    assert (255 * adversary.eps, 255 * adversary.step) == pytest.approx((8, 2), abs=0.02)
    assert purified.defense.t == 0.1 * purified.schedule.num_train_timesteps


@pytest.mark.parametrize("data", options("data"))
def test_a_request_for_each_dataset_is_sound(data):
    assert len(jobs([f"data={data}"], multirun=False)) == 1


ROWS = [one for one in options("experiment") if not one.startswith("table/")]


#: a row of each folder
FEW = {one.partition("/")[0]: one for one in ROWS}.values()


@pytest.mark.parametrize("row", [pytest.param(one, marks=() if one in FEW else pytest.mark.slow) for one in ROWS])
def test_an_experiment_row_is_a_sound_request(row):
    (config,) = jobs([f"experiment={row}"], multirun=False)
    assert config.published.source
    assert config.published.metrics or (row.startswith("diff2/") and config.published.provenance == "none")


@pytest.mark.parametrize("row", FEW)
def test_the_command_line_can_shrink_an_experiment_row(row):
    config = composed(f"experiment={row}")
    (small,) = jobs([f"experiment={row}", "data=digits", "sample.count=64", "attack.poison_rate=0.3"], multirun=False)
    assert (small.data.size, small.schedule.num_train_timesteps, small.sample.count) == (16, 100, 64)
    assert small.attack.poison_rate == 0.3 and small.published == config.published
    names = ("trigger", "target", "sampler.scheduler")
    assert all(OmegaConf.select(small, name) == OmegaConf.select(config, name) for name in names)


@pytest.mark.parametrize("schedule", options("schedule"))
@pytest.mark.parametrize("sampler", options("sampler"))
def test_a_sampler_is_made_from_a_schedule(sampler, schedule):
    config = composed(f"sampler={sampler}", f"schedule={schedule}")
    noise = make(config.schedule)
    scheduler = make(config.sampler.scheduler, **noise.config)
    assert {key: scheduler.config[key] for key in noise.config} == noise.config
    scheduler.set_timesteps(10)
    step = inspect.signature(scheduler.step).parameters
    assert {"model_output", "timestep", "sample", "return_dict", *config.sampler.step} <= set(step)


@pytest.mark.parametrize(
    ("model", "data", "weights"),
    [
        ("cifar10", "cifar10", 35_746_307),  # google/ddpm-cifar10-32
        ("ddpm256", "celebahq", 113_673_219),  # google/ddpm-ema-celebahq-256
        ("cifar10_small", "cifar10", pytest.approx(4.4e6, rel=0.05)),
        ("cifar10_tiny", "cifar10", pytest.approx(2.6e6, rel=0.05)),
        ("digits", "digits", pytest.approx(1e6, rel=0.2)),
    ],
)
def test_models_have_the_weights_they_are_known_for(model, data, weights):
    with torch.device("meta"):
        unet = make(composed(f"data={data}", f"model={model}").model.unet)
    assert sum(tensor.numel() for tensor in unet.parameters()) == weights
