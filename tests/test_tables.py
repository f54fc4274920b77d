"""The tables of conf/experiment/table: every job of each is sound; `bdiff table <name> --run` runs and shows them."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from players import play

from bdiff.cli import main as cli
from bdiff.cli.make_table import first_value, requests
from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.config.options import CONF
from bdiff.config.sweeps import written_out
from bdiff.config.tables import FOLDER, Table, table_of
from bdiff.store.ledger import DONE, FAILED, Ledger

PROFILES = [(path.parent.name, profile) for path in sorted((CONF / FOLDER).glob("*/table.yml"))
            for profile in OmegaConf.load(path).profiles]  # fmt: skip
#: how many jobs each table has had since it was first run
JOBS = {
    ("baddiffusion-asr", "digits"): 36, ("baddiffusion-asr", "paper"): 36, ("clipping-asr", "digits"): 24,
    ("clipping-asr", "paper"): 24, ("published", "digits"): 0, ("published", "paper"): 42, ("zoo", "digits"): 90,
    ("zoo", "paper"): 90, ("amplify", "digits"): 5, ("amplify", "paper"): 5, ("diff2-shields", "digits"): 8,
    ("diff2-shields", "paper"): 14, ("diff2-variants", "digits"): 22, ("diff2-transfer", "digits"): 32,
    ("attacks", "digits"): 96, ("cost", "digits"): 588,
    ("photos", "small"): 44, ("photos", "paper"): 44, ("matrix", "digits"): 323, ("matrix", "cifar10"): 319,
    ("matrix", "paper"): 319,
}  # fmt: skip


#: the first profile of each table; the slow test has every job of all
FIRST = [*{name: (name, profile) for name, profile in reversed(PROFILES)}.values()]


#: tables with more sweeps than the fast tests have time for
MANY = [("matrix", "digits"), ("diff2-variants", "digits"), ("cost", "digits"), ("diff2-shields", "digits")]


@pytest.mark.parametrize(
    ("name", "profile"), [pytest.param(*one, marks=pytest.mark.slow if one in MANY else ()) for one in FIRST]
)
def test_the_first_job_of_each_sweep_is_a_sound_request(name, profile):
    for overrides in requests(table_of(name, profile), []):
        (config,) = jobs([*map(first_value, overrides)], multirun=True)
        words = list(config.hydra.overrides.task)
        assert ("tracker=none" in words) == (profile != "paper")
        assert not any(word.startswith("experiment=table/") for word in words)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_every_job_of_a_table_is_a_sound_request(name, profile):
    found = [jobs(overrides, multirun=True) for overrides in requests(table_of(name, profile), [])]
    assert sum(map(len, found)) == JOBS[name, profile]


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_a_table_names_every_sweep_beside_it(name, profile):
    table, place = table_of(name, profile), CONF / "experiment"
    own = (place / "table" / name / profile).glob("*.yaml")
    files = {path.relative_to(place).with_suffix("").as_posix() for path in own}
    named = {option for choice in table.sweeps for option in choice.strip("[]").split(",")}
    assert {option for option in files - named if not option.rpartition("/")[2].startswith("base")} == set()
    assert all((place / f"{option}.yaml").is_file() for option in named)
    assert all(view[0] in ("table", "zoo", "shields", "attacks", "cost", "report") for view in table.views)


#: sweeps of the matrix over clean models
CLEAN = {"clean", "clean-trojdiff"}


def only(name: str, profile: str, sweeps: set[str]) -> Table:
    """A table with some of its sweeps, as each takes time to compose."""
    table = table_of(name, profile)
    return replace(table, sweeps={choice: place for choice, place in table.sweeps.items() if place.name in sweeps})


def test_an_option_of_run_passes_a_sweep_by_that_lacks_its_key():
    table = only("matrix", "digits", {*CLEAN, "shields", "ode", "scaled-cleanse"})
    found = requests(table, ["seed=0,1", "attack.poison_rate=0.1,0.05", "train.steps=3"])
    given = {folder.name: words for folder, words in zip(table.sweeps.values(), found, strict=True)}
    assert {name for name, words in given.items() if "seed=0,1" not in words} == CLEAN
    assert {name for name, words in given.items() if "attack.poison_rate=0.1,0.05" not in words} == CLEAN | {"shields"}
    assert all("train.steps=3" in words for words in found)


@pytest.mark.parametrize("profile", ["small", "paper"])
def test_a_trigger_of_the_attacks_on_photographs_is_not_that_of_diff2(profile):
    found = requests(table_of("photos", profile), ["trigger=box_on_black"])
    assert ["trigger=box_on_black" in words for words in found] == [True, True, True, True, False]


def test_a_sweep_is_composed_of_options_that_profiles_share_or_have_their_own_of():
    sweeps = {}
    for profile in ("digits", "paper"):
        (words,) = requests(only("matrix", profile, {"ode-detections"}), [])
        sweeps[profile] = dict(word.split("=", 1) for word in words)
    digits, paper = sweeps.values()
    assert digits["attack"] == paper["attack"] == "villandiffusion,noise_path_ode,noise_path_both"
    assert (digits["data"], paper["data"]) == ("digits", "cifar10") and "terd_digits" in digits["defense"].split(",")
    assert "terd" in paper["defense"].split(",") and digits["trigger"] != paper["trigger"]
    assert list(digits).index("defense") < list(digits).index("attack")


def test_a_tables_first_profile_is_its_default_and_its_views_use_words_of_the_profile():
    default, small, paper = (table_of("photos", profile) for profile in (None, "small", "paper"))
    assert default == small and default.folder.parts[-2:] == ("small", "photos")
    assert [table.views[0][-1] for table in (small, paper)] == [
        "attack,trigger,pretrain.train.steps,train.steps",
        "attack,trigger,train.epochs,train.steps",
    ]


def test_the_published_table_has_every_published_row():
    (overrides,) = requests(table_of("published", "paper"), [])
    rows = {f"{paper}/{path.stem}" for paper in ("baddiffusion", "clipping", "trojdiff", "villandiffusion")
            for path in (CONF / "experiment" / paper).glob("*.yaml")}  # fmt: skip
    (typed,) = (word for word in overrides if word.startswith("experiment="))
    assert {row.strip() for row in typed.partition("=")[2].split(",")} == rows


def test_the_plan_of_a_table_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train.steps=2", "sample.count=9", "runtime.plan=true"]
    assert cli.command(["table", "amplify", "--run", *words]) == 0
    assert "train" in capsys.readouterr().out and not [*tmp_path.rglob("metrics.json")]


SWEEP = "experiment=table/amplify/digits/budgets"


def test_an_experiment_that_only_sweeps_stands_for_its_words_and_typed_ones_win():
    words = written_out([SWEEP, "train.steps=7,8", "seed=3"])
    assert words[0] == "tracker=none" and words[-2:] == ["train.steps=7,8", "seed=3"] and SWEEP not in words
    configs = jobs([SWEEP, "train.steps=7,8", "seed=3"], multirun=True)
    assert [(config.train.steps, config.seed, config.sample.count) for config in configs] == [(7, 3, 96), (8, 3, 96)]
    assert "amplify=purediffusion" in configs[0].hydra.overrides.task


def test_a_sweep_without_m_is_refused_in_a_line():
    with pytest.raises(RequestError) as caught:
        jobs([SWEEP], multirun=False)
    assert caught.value.problems == (f"{SWEEP} is a sweep: use bdiff run -m, with no other experiment",)
    with pytest.raises(RequestError, match="no other experiment"):
        jobs([f"{SWEEP},baddiffusion/hat-p5"], multirun=True)


@pytest.mark.parametrize(("word", "message"), [("tracker=non", "did you mean none?"), ("sed=1", "did you mean seed?")])
def test_what_is_wrong_beside_a_sweep_is_all_that_is_reported(word, message):
    with pytest.raises(RequestError) as caught:
        jobs([SWEEP, word], multirun=True)
    (problem,) = caught.value.problems
    assert message in problem


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder of experiments of one's own."""
    (tmp_path / "experiment").mkdir()
    return tmp_path / "experiment"


MINE = """
# @package _global_
train: {steps: 5}
hydra: {sweeper: {params: {seed: "1,2", attack.poison_rate: "0.1,0.2"}}}
"""


def test_an_experiment_of_a_users_own_can_hold_settings_and_a_sweep(own):
    (own / "mine.yaml").write_text(MINE.strip())
    configs = jobs([f"hydra.searchpath=[{own.parent}]", "experiment=mine", "seed=7"], multirun=True)
    assert [(config.seed, config.attack.poison_rate, config.train.steps) for config in configs] == [
        (7, 0.1, 5),
        (7, 0.2, 5),
    ]
    for config in configs:  # as its process is asked for it
        (alone,) = jobs([f"hydra.searchpath=[{own.parent}]", *config.hydra.overrides.task], multirun=False)
        assert alone.attack == config.attack and "experiment=mine" in alone.hydra.overrides.task
    with pytest.raises(RequestError, match="experiment=mine is a sweep: use bdiff run -m"):
        jobs([f"hydra.searchpath=[{own.parent}]", "experiment=mine", "seed=7"], multirun=False)


@pytest.mark.parametrize("message", ["attack.poison_rate=1.5 is not a fraction", "sed is not known"])
def test_the_words_of_a_sweep_are_checked_as_if_they_were_typed(message, own):
    wrong = {"attack.poison_rate=1.5 is not a fraction": ("0.2", "1.5"), "sed is not known": ("seed", "sed")}[message]
    (own / "mine.yaml").write_text(MINE.strip().replace(*wrong))
    with pytest.raises(RequestError, match=re.escape(message)):
        jobs([f"hydra.searchpath=[{own.parent}]", "experiment=mine"], multirun=True)


#: stands in for `bdiff run` in a job's process: it leaves what a run leaves
PLAYER = """
import json, sys
from pathlib import Path
words = dict(word.split("=", 1) for word in sys.argv[2:])
folder, rate = Path(words["hydra.run.dir"].strip('"')), words["attack.poison_rate"]
failed = words["target"] == "hat" and not Path("fixed").exists()
clip = words.get("sample.clip", "false").lower()
(folder / "config.yaml").write_text(f"seed: 0\\nattack: {{poison_rate: {rate}}}\\nsample: {{clip: {clip}}}")
numbers = {f"suspect/{name}": float(rate) for name in ("asr", "mse", "fid_classifier")}
record = {"name": "play", "overrides": sys.argv[2:-1], "choices": {one: words[one] for one in ("trigger", "target")},
          "published": None, "metrics": {} if failed else numbers, "status": "failed" if failed else "done"}
(folder / "metrics.json").write_text(json.dumps(record | ({"error": "the loss became nan"} if failed else {})))
sys.exit(failed)
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder where a job's process finds the player instead of bdiff."""
    monkeypatch.setenv("PYTHONPATH", play(tmp_path, PLAYER))
    monkeypatch.setenv("BDIFF_JOBS", "new")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bdiff"])
    return tmp_path


RUN = ["table", "baddiffusion-asr", "clipping-asr", "--run", "hydra/launcher=basic", "trigger=box", "target=corner,hat",
       "attack.poison_rate=0.25"]  # fmt: skip


@pytest.mark.slow
def test_failed_jobs_keep_nothing_from_being_run_and_shown_and_done_ones_are_left_alone(here, capsys):
    folder = here / "outputs/tables/digits"
    assert cli.command(RUN) == 1
    attempts = Ledger(here / "outputs/ledger.sqlite").attempts()
    assert [one.status for one in attempts] == [DONE, FAILED, DONE, FAILED, FAILED]
    assert {Path(one.folder).parent for one in attempts} == {folder / "table-baddiffusion", folder / "table-clipping"}
    printed = capsys.readouterr().out
    assert re.search(r"^ box +hat +failed", printed, re.MULTILINE)
    assert re.search(r"^ box +corner +0\.250", printed, re.MULTILINE)
    names = [f"table-{table}.{form}" for table in ("baddiffusion", "clipping") for form in ("csv", "latex", "md")]
    assert sorted(path.name for path in folder.glob("*.*")) == names
    assert "| box | hat | failed | failed | failed |" in (folder / "table-baddiffusion.md").read_text()

    (here / "fixed").touch()
    assert cli.command(RUN) == 0
    assert [one.status for one in Ledger(here / "outputs/ledger.sqlite").attempts()[5:]] == [DONE, DONE]
    assert "| box | hat | 0.250 | 0.25 | 0.250 |" in (folder / "table-baddiffusion.md").read_text()
    assert len(re.findall("done before", capsys.readouterr().out)) == 4

    assert cli.command(["table", "clipping-asr"]) == 0, "shown without being run"
    assert re.search(r"clip=false", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("zo --run", "table zo is not known; did you mean zoo? (choose from amplify, "),
        ("baddiffusion --run", "did you mean baddiffusion-asr?"),
        ("baddiffusion-as", "did you mean baddiffusion-asr?"),
        ("zoo --profile papr", "table zoo: profile papr is not known; did you mean paper?"),
        ("diff2-variants --profile paper --run", "profile paper is not known (choose from digits)"),
        ("zoo", "outputs/tables/digits/zoo is not a folder: bdiff table zoo --run creates it"),
        ("zoo --profile paper", "zoo --profile paper --run creates it; if it was run with paths.outputs=, give that"),
        ("--run zoo", "give the table before the options"),
        ("zoo --run --format md", "give its folder for another"),
        ("zoo --run tracker=non", "tracker=non is not known; did you mean none?"),
        ("amplify --run word", "'word' cannot be read: write key=value"),
    ],
)
def test_wrong_words_of_a_table_are_reported_in_a_line_and_nothing_is_run(line, message, here, capsys):
    assert cli.command(["table", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1 and not out and not (here / "outputs").exists()


def test_a_folder_of_a_tables_name_is_a_folder(here, capsys):
    (here / "zoo").mkdir()
    assert cli.command(["table", "zoo"]) == 2 and "no runs found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "outputs"),
    [
        (["paths.outputs='/a b/outputs'"], "/a b/outputs"),
        (["paths.outputs=~/big"], "/home/me/big"),
        (["paths.outputs=/größer"], "/größer"),
        (["paths.outputs=/first", "paths.outputs=/last"], "/last"),
    ],
)
def test_the_runs_of_a_table_are_where_its_outputs_are_asked_to_be(words, outputs, here, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    asked = []
    monkeypatch.setattr("bdiff.cli.make_table.make", lambda tables, words: asked.extend(tables) or 0)
    assert cli.command(["table", "zoo", "--run", "seed=1", *words]) == 0
    assert {place.parents[1] for place in asked[0].sweeps.values()} == {Path(outputs, "tables/digits")}
    assert any(f"{outputs}/tables/digits/zoo" in word for view in asked[0].views for word in view)
