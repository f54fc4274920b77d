"""Folders of runs with a shield, written by hand: as far as tables read them."""

from pathlib import Path
from typing import Any

from fake_runs import settings, write_run

TARGETS = {
    "purification": "bdiff.defense.shields.purification.Purification",
    "certification": "bdiff.defense.shields.certification.Certification",
}
PARTS = {"purification": "shield", "certification": "certification"}

PURIFIED = {
    "no_shield/clean/accuracy": 1.0,
    "no_shield/asr": 0.1,
    "shield_clean_model/clean/accuracy": 0.9,
    "shield_clean_model/asr": 0.2,
    "shield/clean/accuracy": 0.8,
    "shield/asr": 0.7,
}
CERTIFIED = {
    "certified_no_shield/clean/acc@0": 0.1,
    "certified_no_shield/clean/acr": 0.01,
    "certified/clean/acc@0": 0.9,
    "certified/clean/acr": 0.5,
    "certified/triggered/acc@0": 0.2,
    "certified/triggered/acr": 0.05,
}


def write_shielded(
    folder: Path,
    metrics: dict[str, float],
    shield: str = "purification",
    *,
    seed: int = 0,
    facts: dict[str, Any] | None = None,  # of the shield's part of the protocol
    typed: dict[str, Any] | None = None,  # keys below defense, as the command line sets them
    **more: Any,
) -> Path:
    """Write the folder of a run with a shield that is done, or as `more` says."""
    config = settings(seed=seed, defense={"_target_": TARGETS[shield], **(typed or {})})
    words = tuple(f"defense.{key}={value}" for key, value in (typed or {}).items())
    choices: dict[str, str | None] = {"trigger": "box", "defense": shield}
    protocol = {"images": 256, PARTS[shield]: facts or {}}
    return write_run(folder, metrics, config, typed=words, choices=choices, protocol=protocol, **more)
