"""Run folders written by hand: what `bdiff run` leaves, as far as tables read it."""

import json
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def settings(trigger: str = "box_14", rate: float = 0.1, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A small config: what tells runs apart, and what does not."""
    side = int(trigger.rpartition("_")[2])
    return {
        "seed": seed,
        "name": f"run-{trigger}",
        "runtime": {"device": f"cuda:{seed}"},
        "paths": {"outputs": "outputs"},
        "trigger": {"_target_": "bdiff.trigger.box.box", "side": side},
        "attack": {"poison_rate": rate},
        "sample": {"clip": False, "count": 256},
        **more,
    }


def write_run(
    folder: Path,
    metrics: dict[str, float],  # by their full names, or those of the suspect by their last part
    config: dict[str, Any],
    *,
    typed: tuple[str, ...] = (),
    choices: dict[str, str | None] | None = None,
    protocol: dict[str, Any] | None = None,
    age: float = 0,  # seconds
    **more: Any,
) -> Path:
    """Write the folder of a run that is done, or as `more` says."""
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    record = {
        "schema": 1,
        "name": config["name"],
        "status": "done",
        "overrides": list(typed),
        "choices": choices or {},
        "metrics": {name if "/" in name else f"suspect/{name}": value for name, value in metrics.items()},
        **({} if more.get("status", "done") != "done" else {"protocol": protocol or {}}),
        **more,
    }
    path = folder / "metrics.json"
    path.write_text(json.dumps(record))
    os.utime(path, (1_700_000_000 - age,) * 2)
    return folder
