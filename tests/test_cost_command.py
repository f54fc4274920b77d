"""`bdiff cost` over runs written by hand: the smallest budget that reaches an ASR, and factors to a base."""

import csv
import io

import pytest
from fake_runs import settings, write_run
from PIL import Image

from bdiff.cli import main as cli
from bdiff.config.tables import table_of
from bdiff.report.cost import Method

#: (attack, rate) -> seed -> steps -> ASR
RUNS = {
    ("base", 0.1): {0: {100: 0.2, 150: 0.8, 225: 1.0}, 1: {100: 0.1, 150: 0.99, 225: 1.0}, 2: {150: 0.3, 225: 0.992}},
    ("base", 0.01): {0: {225: 0.5}, 1: {225: 0.3}, 2: {225: 0.995}},
    ("fast", 0.1): {
        0: {10: 0.5, 15: 0.995, 22: 0.97},
        1: {10: 0.6, 15: 1.0, 22: 1.0},
        2: {10: 0.2, 15: 0.6, 22: 0.991},
    },
    ("fast", 0.01): {0: {10: 1.0, 15: 1.0}},
    ("uneven", 0.1): {0: {10: 0.5, 15: 1.0}, 1: {15: 1.0}, 2: {15: 1.0}},
    ("uneven", 0.01): {0: {10: 0.5}, 1: {15: 0.5, 22: 0.5}, 2: {22: 1.0}},
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for (attack, rate), curves in RUNS.items():
        for seed, curve in curves.items():
            for steps, asr in curve.items():
                config = settings(seed=seed, attack={"name": attack, "poison_rate": rate})
                config["train"] = config.get("train", {}) | {"steps": steps}
                folder = tmp_path / "runs" / f"{attack}-{rate}-{seed}-{steps}"
                metrics = {"asr": asr, **({"amplified/asr": min(1.0, asr + 0.2)} if attack == "base" else {})}
                write_run(folder, metrics, config, typed=(f"attack={attack}",), choices={"attack": attack})


def rows(capsys, *words) -> dict[tuple[str, str], dict[str, str]]:
    assert cli.command(["cost", "runs", "--rows", "attack", "--format", "csv", *words]) == 0
    return {(row["attack"], row["trigger"]): row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}


def test_the_cost_is_the_median_over_seeds_of_the_smallest_budget(capsys):
    found = rows(capsys, "--base", "base")
    trained, fast = found["base", "as trained"], found["fast", "as trained"]
    assert (trained["rate 0.1"], trained["rate 0.01"]) == ("225", "> 225")  # 225, 150, 225; inf, inf, 225
    assert (fast["rate 0.1"], fast["rate 0.1 times"]) == ("15", "15.0")  # 15, 15, 22, whatever a larger budget does
    assert (fast["rate 0.01"], fast["rate 0.01 times"]) == ("<= 10", "> 22.5")
    reinforced = found["base", "reinforced"]
    assert (reinforced["rate 0.1"], reinforced["rate 0.1 times"]) == ("150", "1.5")
    assert trained["rate 0.1 times"] == "-"


def test_seeds_with_other_budgets_give_bounds(capsys):
    found = rows(capsys, "--base", "base")["uneven", "as trained"]
    assert (found["rate 0.1"], found["rate 0.1 times"]) == ("<= 15", "> 15.0")  # 15, at most 15, at most 15
    assert (found["rate 0.01"], found["rate 0.01 times"]) == ("> 10", "-")  # above 10, above 22, at most 22


def test_another_goal_is_another_cost(capsys):
    found = rows(capsys, "--goal", "0.5")
    assert rows(capsys, "--goal", "1")["fast", "as trained"]["rate 0.01"] == "<= 10"
    assert found["base", "as trained"]["rate 0.1"] == "150" and found["fast", "as trained"]["rate 0.1"] == "<= 10"
    assert not any("times" in head for head in found["base", "as trained"])


def test_a_line_goes_through_budgets_that_every_seed_has_and_other_seeds_stand_alone():
    uneven = Method(("one",), 0.1, {0: {10: 0.5, 15: 0.9}, 1: {15: 0.3, 22: 0.8}, 2: {15: 1.0, 22: 0.9}})
    assert uneven.medians() == [(15, 0.9)] and uneven.singles() == [(10, 0.5), (22, 0.8), (22, 0.9)]
    even = Method(("one",), 0.1, {0: {10: 0.1, 15: 0.9}, 1: {10: 0.3, 15: 0.8}})
    assert even.medians() == [(10, pytest.approx(0.2)), (15, pytest.approx(0.85))] and even.singles() == []


def test_the_figure_has_a_panel_for_each_rate(tmp_path):
    assert cli.command(["cost", "runs", "--rows", "attack", "--figure", "new/cost.png"]) == 0
    width, height = Image.open("new/cost.png").size
    assert width > 2 * 400 and height > 400


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("runs --base slow --rows attack", "--base slow names 0 attacks of these runs, which are base; fast; uneven"),
        ("runs --goal 90", "argument --goal: 90 must lie between 0 and 1"),
        ("runs --rows atack", "atack is set in no run; did you mean attack?"),
    ],
)
def test_wrong_words_are_reported_in_a_line(line, message, capsys):
    assert cli.command(["cost", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1 and not out


def test_the_table_tells_apart_attacks_of_one_option(tmp_path):
    """BadDiffusion's own law towards the trigger alone is attack=villandiffusion; --base has none of these settings."""
    table = table_of("cost", outputs=tmp_path)
    for attack, budget, more in (
        ("baddiffusion", 100, {}),
        ("villandiffusion", 50, {"law": "ancestral", "r": "trigger"}),
        ("learned_trigger", 25, {"law": "ode", "learn": 0}),
    ):
        config = settings(attack={"poison_rate": 0.1, **more}, train={"steps": budget})
        write_run(table.folder / attack, {"asr": 1.0}, config, choices={"attack": attack})
    assert cli.command(next(view for view in table.views if "csv" in view)) == 0
    _, *found = csv.reader(table.folder.with_suffix(".csv").open())
    assert found == [
        ["baddiffusion", "-", "-", "-", "as trained", "<= 100", "-"],
        ["learned_trigger", "ode", "-", "0", "as trained", "<= 25", "-"],
        ["villandiffusion", "ancestral", "trigger", "-", "as trained", "<= 50", "-"],
    ]


@pytest.mark.parametrize(
    ("learn", "metric", "said"), [(0, "asr", False), (5, "asr", True), (None, "amplified/asr", True)]
)
def test_steps_besides_those_of_training_are_said_not_to_be_counted(tmp_path, capsys, learn, metric, said):
    config = settings(attack={"poison_rate": 0.1, "learn": learn}, train={"steps": 50})
    write_run(tmp_path / "one", {metric: 1.0}, config, choices={"attack": "mine"})
    assert cli.command(["cost", "one", "--rows", "attack"]) == 0
    assert ("steps that learn or reinforce a trigger are not counted" in capsys.readouterr().out) == said


def test_clean_models_have_no_rate_and_are_left_out(tmp_path, capsys):
    before = rows(capsys, "--base", "base")
    clean = settings(attack={"_target_": "bdiff.attack.none.NoAttack"}, train={"steps": 100})
    write_run(tmp_path / "runs" / "clean", {"asr": 0.0}, clean, typed=("attack=none",), choices={"attack": "none"})
    assert rows(capsys, "--base", "base") == before
    assert cli.command(["cost", "runs/clean"]) == 2
    assert "a budget in train.steps is done below runs/clean" in capsys.readouterr().err


def test_budgets_in_epochs_are_left_out(tmp_path, capsys):
    before = rows(capsys, "--base", "base")
    epochs = settings(attack={"name": "base", "poison_rate": 0.1})
    write_run(tmp_path / "runs" / "epochs", {"asr": 1.0}, epochs)
    assert rows(capsys, "--base", "base") == before
    assert cli.command(["cost", "runs/epochs"]) == 2
    assert "and a budget in train.steps is done below runs/epochs" in capsys.readouterr().err
