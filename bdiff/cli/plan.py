"""`bdiff run ... runtime.plan=true`: what a run, or every job of a sweep, would do; nothing is started or written."""

import logging
import os
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bdiff.common.errors import RequestError
from bdiff.common.progress import Screen
from bdiff.config.keys import resolved


def settled(config: DictConfig) -> DictConfig:
    """Return a composed config as its job would have it."""
    HydraConfig.instance().set_config(config)
    return resolved(config)


def print_plans(out: Screen, configs: Sequence[DictConfig], labels: Sequence[str]) -> None:
    """Print the plan of a settled config; of several, a line for each. RequestError where a run would be refused."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RequestError("runtime.plan=true is for one process: leave torchrun out")
    from bdiff.launch.job import setup_logging
    from bdiff.store.threads import settle

    setup_logging(None, logging.WARNING)
    settle(configs[0].runtime.get("threads", "auto"))
    from bdiff.pipeline.plan import plan
    from bdiff.report.plan import show, show_sweep

    plans = {label: plan(config) for label, config in zip(labels, configs, strict=True)}
    if len(plans) == 1:
        show(out, *plans.values())
    else:
        show_sweep(out, plans)
