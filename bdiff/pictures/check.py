"""Checks of the trigger and the target before torch is imported."""

from hydra.errors import HydraException
from omegaconf import DictConfig

from bdiff.common.errors import one_line
from bdiff.config.instantiate import make
from bdiff.pictures.draw import empty, to_alpha


def picture_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the trigger or the target: sizes that do not fit, files that show nothing."""
    problems = []
    picture = empty(config.data.size)  # stands in for a broken trigger, so that the target is checked too
    try:
        picture = make(config.trigger, size=config.data.size)
        if (to_alpha(picture, config.data.channels) < 0.5).all():
            problems.append("the trigger shows nothing on this data, all of it is background: choose another trigger")
    except (ValueError, TypeError, HydraException) as error:
        problems.append(one_line(error))
    try:
        make(config.target, size=config.data.size, trigger=picture)
    except (ValueError, TypeError, HydraException) as error:
        problems.append(one_line(error))
    return problems


CHECKS = [(("data.size", "data.channels", "trigger.", "target."), picture_problems)]
