"""How the settings of attacks fit together, checked before torch is imported."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bdiff.common.spelling import nearest
from bdiff.config.options import group_options, own_settings
from bdiff.config.parts import describe
from bdiff.config.rules import is_list
from bdiff.data.check import problems as path_problems

LAWS = ("ancestral", "ode", "grid", "villan")


def learn_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a trigger is to be learned on a denoiser, and training starts from fresh weights."""
    attack = config[key]
    fresh = config.model.pretrained is None and config.pretrain.train is None
    if not (attack.get("learn") and fresh and "learns_on_model" in describe(attack._target_).flags):
        return []
    return [
        f"{key}.learn={attack.learn} needs a denoiser that training starts from: use pretrain=digits, or another of "
        "conf/pretrain, or set model.pretrained"
    ]


def amplify_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problems that an amplification has no trigger that is added to noise, or no one path and law."""
    if config.amplify._target_ is None:
        return []
    problems = [
        f"amplify.inversion.{name}=each is for detections, which try every one: an amplification needs one of them"
        for name in ("path", "law")
        if OmegaConf.select(config, f"amplify.inversion.{name}") == "each"
    ]
    if not {"starts_samples", "adds_pattern"} <= describe(config[key]._target_).flags:
        problems.append(
            "amplify is for triggers that are added to a sample's starting noise, and this attack has none there: use "
            "amplify=none"
        )
    return problems


def villandiffusion_problems(config: DictConfig, place: str) -> list[str]:
    """Return what is wrong between the law of VillanDiffusion and its other settings."""
    attack, steps = OmegaConf.select(config, place), config.schedule.num_train_timesteps
    laws = [*attack.law] if is_list(attack.law) else [attack.law]
    problems = []
    if "grid" in laws and steps % attack.grid:
        own = config.sample.steps
        such = f", such as sample.steps={own} of the sampler" if steps % own == 0 else ""
        given = f"{place}.grid={attack.grid} does not divide schedule.num_train_timesteps={steps}"
        problems.append(f"{given}: set a divisor of it{such}")
    return problems


def adaptive_problems(config: DictConfig, place: str) -> list[str]:
    """Return what is wrong with the defenses that an attack is said to be made against: names of none."""
    options = [*group_options()["defense"]]
    names = OmegaConf.select(config, place).adaptive_to
    return [f"{place}.adaptive_to: {name} {nearest(name, options)}" for name in names if name not in options]


def trojdiff_problems(config: DictConfig, key: str) -> list[str]:
    """Return what is wrong with TrojDiff's foreign data, and with a sampler that its gamma rules out."""
    return foreign_problems(config, key) + noise_problems(config, key)


def foreign_problems(config: DictConfig, key: str) -> list[str]:
    """Return what is wrong with the data of another class target: not asked for, not there, or the run's own."""
    attack = config[key]
    name, path, options = attack.foreign, attack.foreign_path, [*group_options()["data"]]
    if attack.mode != "out_d2d":
        given = [one for one in ("foreign", "foreign_path") if attack[one] is not None]
        return [
            f"{key}.{one}={attack[one]} is for {key}.mode=out_d2d, not {attack.mode}: leave it out" for one in given
        ]
    if name is None:
        return [f"{key}.mode=out_d2d takes its target from other data: set {key}.foreign=letters, or another of data"]
    if name not in options:
        return [f"{key}.foreign={name} {nearest(name, options)}"]
    if lines := path_problems(path):
        return [line.replace("data.path", f"{key}.foreign_path") for line in lines]
    settings = own_settings("data", name)
    if settings._target_ == config.data._target_ and place(path or settings.path) == place(config.data.path):
        return [f"{key}.foreign={name} is the run's own data: use {key}.mode=in_d2d, or choose other data"]
    return []


def place(path: str | None) -> Path | None:
    """Return a path that can be compared."""
    return None if path is None else Path(path).expanduser().resolve()


def noise_problems(config: DictConfig, key: str) -> list[str]:
    """Return the problem that a gamma of 0 leaves an ancestral sampler no noise to scale its own by."""
    ode = config.sampler.ode and not OmegaConf.select(config, "sampler.step.eta")
    if config[key].gamma > 0 or ode:
        return []
    return [f"{key}.gamma=0 is for ODE samplers: use sampler=ddim (with eta 0) or another, or set {key}.gamma above 0"]
