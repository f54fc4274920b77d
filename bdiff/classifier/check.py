"""Checks of classifiers before torch is imported."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bdiff.common.places import no_file


def classifier_problems(config: DictConfig) -> list[str]:
    """Return the weight files of classifiers that are missing."""
    keys = [f"{name}.{key}" for name in ("classifier", "surrogate") for key in ("weights", "model.path")]
    given = {key: OmegaConf.select(config, key) for key in keys}
    return [f"{key}={path} {why}" for key, path in given.items() if path and (why := no_file(Path(path).expanduser()))]


CHECKS = [(("classifier.", "surrogate."), classifier_problems)]
