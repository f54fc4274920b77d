"""Checks of schedules, samplers and lengths of training before torch is imported."""

import os

from omegaconf import DictConfig, OmegaConf

from bdiff.config.keys import plain
from bdiff.diffusion import schedulers
from bdiff.diffusion.steps import step_problem

SMALL_CNN = "bdiff.classifier.small_cnn.SmallCNN"
#: the training configs: the suspect's, a classifier's, pretraining's, a removal's
TRAININGS = ("", "classifier.", "surrogate.", "pretrain.", "defense.", "defense.removal.")


def length_problems(config: DictConfig) -> list[str]:
    """Return the problem that a training has no length."""
    trainings = {f"{place}train": OmegaConf.select(config, f"{place}train") for place in TRAININGS}
    return [
        f"{name}.steps and {name}.epochs are both null: set one of them"
        for name, train in trainings.items()
        if train is not None and train.steps is None and train.epochs is None
    ]


def sampler_problems(config: DictConfig) -> list[str]:
    """Return what the sampler cannot do."""
    problems = []
    if config.sample.clip and "clip_sample" not in config.sampler.scheduler:
        problems.append("sample.clip=true works with sampler=ddpm and sampler=ddim only")
    scheduler, schedule = plain(config.sampler.scheduler), plain(config.schedule)
    kind = str(scheduler.get("algorithm_type", ""))
    if config.sampler.ode and kind.startswith("sde"):
        problems.append(f"sampler.scheduler.algorithm_type={kind} draws noise in each step: set sampler.ode=false")
    if found := schedulers.problems(scheduler, schedule):
        return problems + found
    if line := step_problem(scheduler, config.sample.steps, schedule):
        problems.append(line)
    return problems


def schedule_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the noise of the schedule."""
    return schedulers.noise_problems(plain(config.schedule))


def split_problems(config: DictConfig) -> list[str]:
    """Return the batch sizes that cannot be split over the processes of torchrun."""
    given = os.environ.get("WORLD_SIZE", "1")
    world = int(given) if given.isdigit() else 1  # bdiff.config.environment reports it
    sizes = {f"{place}train.batch_size": OmegaConf.select(config, f"{place}train.batch_size") for place in TRAININGS}
    apart = {f"{name}.train.batch_size" for name in ("classifier", "surrogate") if not shares_batches(config, name)}
    return [
        f"{key}={size} cannot be split over WORLD_SIZE={world} processes: choose a multiple of {world}"
        for key, size in sizes.items()
        if size is not None and key not in apart and world > 1 and size % world
    ]


def shares_batches(config: DictConfig, name: str) -> bool:
    """Return whether several processes train the classifier `name` together: one with BatchNorm is trained by one."""
    return OmegaConf.select(config, f"{name}.model._target_") == SMALL_CNN


TRAINED = (*(f"{place}train." for place in TRAININGS), "classifier.", "surrogate.", "pretrain.", "defense.")
CHECKS = [
    (("schedule.",), schedule_problems),
    (TRAINED, length_problems),
    (TRAINED, split_problems),
    (("sample.", "sampler.", "schedule."), sampler_problems),
]
