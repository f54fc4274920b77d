"""`bdiff.run`: a run as a function, which preserves the global state of Hydra and logging."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import DictConfig

from bdiff.common.errors import RequestError
from bdiff.common.progress import console
from bdiff.config.compose import jobs
from bdiff.config.folders import asked
from bdiff.config.keys import resolved
from bdiff.config.words import literal
from bdiff.library.records import Record, record_in

#: the detection of an audit that names none: the one whose threshold is for any data
METHOD = "purediffusion_mixture"


def run(overrides: Sequence[str] = (), *, quiet: bool = False) -> Record:
    """Do what `bdiff run` does with these overrides, as in ["attack=none", "train.steps=100"].

    Raises RequestError, with a line for each problem, if the request is invalid, and RunError if the run fails. It logs
    to its run.log and to stderr; with `quiet`, only warnings to the latter. It can be called any number of times, but
    not within another Hydra app.
    """
    with composed(overrides) as config:
        folder, words, settled = Path(config.hydra.run.dir), asked(config.hydra), resolved(config)
    from bdiff.launch.job import job

    with logging_apart(quiet):
        job(settled, folder, *words)
    return record_in(folder)


def overrides_of(shape: tuple[int, ...], schedule: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the overrides for a checkpoint of images of `shape` (C,H,W) and its noise schedule, and for `settings`."""
    known = {"data.channels": shape[0], "data.size": shape[1]}
    known |= {f"schedule.{name}": value for name, value in schedule.items()}
    return [f"{key}={literal(value)}" for key, value in {**known, **settings}.items()]


@contextmanager
def composed(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """Yield the checked config of a request, while Hydra's resolvers are available. RequestError if it is invalid."""
    if isinstance(overrides, str):
        raise RequestError(f'overrides are a list of strings, as in ["{overrides}"]')
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RequestError("bdiff.run supports one process: with torchrun use -m bdiff run")
    if GlobalHydra.instance().is_initialized():
        reason = "Hydra, which bdiff uses to compose its config, is in use by another app"
        raise RequestError(f"{reason}: call bdiff outside of hydra.main and hydra.initialize")
    hydra, base = HydraConfig.instance(), VersionBase.instance()
    kept = hydra.cfg, base.version_base
    try:
        (config,) = jobs(list(overrides), False)
        yield config
    finally:
        hydra.cfg, base.version_base = kept


@contextmanager
def logging_apart(quiet: bool) -> Iterator[None]:
    """Let a run set up its own logging, without progress if it is `quiet`, and restore the previous one."""
    loggers = [logging.root, logging.getLogger("bdiff"), logging.getLogger("bdiff.file")]
    kept = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    logging.root.handlers = []  # otherwise the run's setup would close them
    quiet_before, console.quiet_progress = console.quiet_progress, quiet
    try:
        yield
    finally:
        console.quiet_progress = quiet_before
        for handler in {handler for one in loggers for handler in one.handlers}:
            handler.close()
        for one, handlers, level, propagate in kept:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
