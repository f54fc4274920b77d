"""A plan has the stages of the run that it is of, with their keys, and leaves nothing behind."""

import logging
from pathlib import Path

import pytest
from runs import carry_out
from tiny import DEFENSES, OTHERS, TINY

from bdiff.cli.plan import settled
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.launch.job import setup_logging
from bdiff.pipeline.plan import plan
from bdiff.pipeline.planned import REUSED

#: requests, and the stages whose keys rest on what an unfinished stage would leave
CASES = {
    "a clean model": (["attack=none"], {"reference", "measure"}),
    "a backdoor": ([], set()),
    "a detection and a removal": (
        ["defense=purediffusion", *DEFENSES["purediffusion"], "defense.repair=true", "defense.removal.train.steps=2",
         "defense.removal.train.batch_size=4"],
        {"audit_sample"},
    ),
    "a removal": (["defense=finetune", *DEFENSES["finetune"]], set()),
    "a sampling-time defense": (["defense=clipping"], set()),
    "purification": (
        ["defense=purification", *DEFENSES["purification"]],
        {"no_shield", "shield", "shield_clean_model", "shield_ensemble"},
    ),
    "certification": (["defense=certification", *DEFENSES["certification"]], set()),
    "a learned trigger": (OTHERS["a learned trigger"], {"train", "sample", "measure"}),
    "an amplified trigger": (OTHERS["an amplified trigger"], {"amplified_sample"}),
    "more measures": (OTHERS["more measures"], set()),
}  # fmt: skip


def words(home: Path, overrides: list[str]) -> list[str]:
    return [*TINY, *overrides, f"paths.outputs={home}/outputs", f"paths.cache={home}/cache"]


def planned(home: Path, overrides: list[str]):
    (config,) = jobs(words(home, overrides), False)
    setup_logging(None, logging.WARNING)
    return plan(settled(config))


@pytest.fixture(scope="module")
def decoded(home) -> Path:
    """A home with the digits decoded, so that keys are known."""
    (config,) = jobs(words(home, []), False)
    for split in ("train", "test"):
        make(config.data, cache=home / "cache", seed=0, memory=8.0, split=split)
    return home


def files(home: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in home.rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_has_the_stages_of_its_run(decoded, case):
    home = decoded
    overrides, unknown = CASES[case]
    before = files(home)
    ahead = planned(home, overrides)
    assert files(home) == before
    code, record = carry_out(home, case.replace(" ", "-"), *TINY, *overrides)
    assert code == 0
    keys = {row.name: row.key for row in ahead.rows}
    assert keys.keys() == record["keys"].keys()
    assert {name for name, key in keys.items() if key != record["keys"][name]} == unknown
    assert {row.name for row in ahead.rows if row.state == REUSED} == {*record["reused"]}
    assert all(row.seconds is not None for row in ahead.rows), ahead.rows
    after = planned(home, overrides)
    assert {row.name: row.key for row in after.rows} == record["keys"]
    assert {row.state for row in after.rows} == {REUSED} and after.seconds == 0
