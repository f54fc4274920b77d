"""`bdiff.run`: a run as a function, which leaves Hydra's and logging's global state as it was."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.library.records import Record, record_in


def run(overrides: Sequence[str] = ()) -> Record:
    """Carry out what `bdiff run` does with these overrides, as in ["attack=none", "train.steps=100"].

    Raises RequestError, with a line for each problem, if the request is wrong, and RunError if the run fails. What it
    logs goes to stderr and its run.log; a run can be called as often as wanted, but not within another Hydra app.
    """
    with composed(overrides) as config:
        folder, words, chosen = Path(config.hydra.run.dir), [*config.hydra.overrides.task], config.hydra.runtime.choices
        choices = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
        settled = resolved(config)
    from bdiff.launch.job import job

    with logging_apart():
        job(settled, folder, words, choices)
    return record_in(folder)


def resolved(config: DictConfig) -> DictConfig:
    """Return a composed config without Hydra's own node, its references resolved."""
    own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    return OmegaConf.create(OmegaConf.to_container(own, resolve=True))  # type: ignore[return-value]


@contextmanager
def composed(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """Yield the checked config of a request, which Hydra's resolvers still serve. RequestError if it is wrong."""
    if isinstance(overrides, str):
        raise RequestError(f'overrides are a list of words, as in ["{overrides}"]')
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RequestError("bdiff.run is of one process: with torchrun use -m bdiff run")
    if GlobalHydra.instance().is_initialized():
        told = "Hydra, by which bdiff composes its config, is in use here by another app"
        raise RequestError(f"{told}: call bdiff outside of hydra.main and hydra.initialize")
    hydra, base = HydraConfig.instance(), VersionBase.instance()
    kept = hydra.cfg, base.version_base
    try:
        (config,) = jobs(list(overrides), False)
        yield config
    finally:
        hydra.cfg, base.version_base = kept


@contextmanager
def logging_apart() -> Iterator[None]:
    """Let a run set up its own logging, and put back what was there before."""
    loggers = [logging.root, logging.getLogger("bdiff"), logging.getLogger("bdiff.file")]
    kept = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    logging.root.handlers = []  # which the run's setup would close
    try:
        yield
    finally:
        for handler in {handler for one in loggers for handler in one.handlers}:
            handler.close()
        for one, handlers, level, propagate in kept:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
