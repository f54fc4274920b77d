"""A plan has the stages of the run that it is of, with their keys, and leaves nothing behind."""

import io
import logging
import math
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import toys
from omegaconf import OmegaConf
from runs import carry_out
from tiny import ATTACKS, DEFENSES, OTHERS, TINY

import bdiff
from bdiff.attack.invibackdoor import InviBackdoor
from bdiff.cli import main as cli
from bdiff.cli.plan import settled
from bdiff.common.errors import RequestError
from bdiff.common.progress import Screen
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.launch.job import setup_logging
from bdiff.pipeline.estimate import Row, total
from bdiff.pipeline.experiment import loop_config
from bdiff.pipeline.plan import Plan, plan
from bdiff.pipeline.planned import GOES_ON, NEW, REUSED, Step
from bdiff.pipeline.work import CLASSIFIER, DENOISER, SURROGATE, Asked, asked, trained
from bdiff.report.plan import show
from bdiff.store.artifacts import Stage

SMALL = [*(word for word in TINY if "unet" in word), "model.unet.norm_num_groups=4"]
STAGES = ["train", "sample", "reference", "measure", "audit", "audit_sample", "total"]
RADII = [word for word in DEFENSES["certification"] if word.startswith("defense")]
#: requests, and the stages whose keys rest on what an unfinished stage would leave
CASES = {
    "a clean model": (["attack=none"], set()),
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
    "certification": (
        ["defense=certification", *DEFENSES["certification"], "classifier@surrogate=resnet18",
         "surrogate.train.steps=1", "surrogate.train.batch_size=8"],
        set(),
    ),
    "a learned trigger": (OTHERS["a learned trigger"], {"train", "sample", "measure"}),
    "a trigger learned with the model behind a shield": (
        ["attack=diff2_joint", *ATTACKS["diff2_joint"], "defense=certification", *RADII],
        {"certified_no_shield", "certified", "certified_clean_model"},
    ),
    "an amplified trigger": (OTHERS["an amplified trigger"], {"amplified_sample"}),
    "more measures": (OTHERS["more measures"], set()),
    "a class of other data": (["attack=trojdiff_out_d2d"], {"train", "sample", "class_judge", "measure"}),
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


#: those that a walk through the plan differs in most; the others take as long, and stay for the slow tests
FIRST = ("a clean model", "a detection and a removal", "a learned trigger", "a class of other data")


@pytest.mark.parametrize("case", [one if one in FIRST else pytest.param(one, marks=pytest.mark.slow) for one in CASES])
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
    if next(row for row in ahead.rows if row.name == "classifier").state != REUSED:  # its accuracy is not known yet
        unknown = unknown | {name for name in keys if name.startswith(("reference", "activations", "measure"))}
    assert {name for name, key in keys.items() if key != record["keys"][name]} == unknown
    assert {row.name for row in ahead.rows if row.state == REUSED} == {*record["reused"]}
    assert all(row.seconds is not None for row in ahead.rows), ahead.rows
    after = planned(home, overrides)
    assert {row.name: row.key for row in after.rows} == record["keys"]
    assert {row.state for row in after.rows} == {REUSED} and total(after.rows).seconds == 0


def test_the_command_prints_80_columns_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["data=cifar10", "defense=purediffusion", "runtime.plan=true", "runtime.device=cpu", *SMALL]
    asked = [*asked, f"paths.cache={tmp_path}/cache", "data.limit=5000", "train.epochs=4", "train.steps=null"]
    assert cli.command(["run", *asked]) == 0
    out = capsys.readouterr().out
    assert not [*tmp_path.iterdir()]
    assert max(map(len, out.splitlines())) <= 80
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert [name for name in rows if name in STAGES] == STAGES
    assert "data: cifar10 train: not here, to be downloaded" in out  # and yet they are counted
    steps = math.ceil(4 * 5000 / 128)
    assert f"{steps} steps of 128" in rows["train"] and re.search(r" new .* 00:\d\d:\d\d|\d s", rows["train"])
    assert re.search(r"total +[\d:]+ +[\d.]+ [MG]iB", out)


def test_a_terminal_shows_a_table_that_does_not_wrap():
    rows = [
        Row("amplified_sample", "k", NEW, "1,204,800 images x 1,000", 360000.0, 2.0**35),
        Row("x", "y", REUSED, "", 0, 0),
    ]
    screen = Screen(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    show(screen, Plan("name", rows, [], ["what it rests on"]))
    lines = screen.file.getvalue().splitlines()
    (line,) = [line for line in lines if "amplified_sample" in line]
    assert "1,204,800 images x 1,000" in line and "100:00:00" in line and "32.0 GiB" in line
    assert any("x" in line and "reused" in line for line in lines)
    assert max(map(len, lines)) <= 80 and "what it rests on" in lines


def test_a_sweep_has_one_table_that_counts_a_shared_stage_once(tmp_path, capsys):
    words = ["attack=none,baddiffusion", "target=corner,hat", "runtime.plan=true", *TINY, f"paths.cache={tmp_path}/c"]
    assert cli.command(["run", "-m", *words, f"paths.outputs={tmp_path}/o"]) == 0
    out = capsys.readouterr().out
    assert "plan of 4 jobs" in out and not [*tmp_path.iterdir()]
    left = [re.search(r"(\d) of 5 stages", line)[1] for line in out.splitlines() if "stages" in line]
    assert left == ["5", "1", "3", "3"]  # the clean model and its samples serve every target, the classifier all


def test_what_unfinished_stages_would_leave_differs(decoded):
    """Or two detections would seem to share the samples of their triggers."""
    keys = [
        {row.name: row.key for row in planned(decoded, [f"defense={one}", *DEFENSES[one], "seed=7"]).rows}
        for one in ("elijah", "purediffusion")
    ]
    assert keys[0]["sample"] == keys[1]["sample"] and keys[0]["audit_sample"] != keys[1]["audit_sample"]


def test_a_training_that_was_killed_goes_on(decoded):
    overrides = ["train.steps=8", "seed=5"]
    (new,) = [row for row in planned(decoded, overrides).rows if row.name == "train"]
    state = decoded / "outputs" / "train" / new.key / "state"
    state.mkdir(parents=True)
    (state / "6.pt").write_bytes(b"")
    (left,) = [row for row in planned(decoded, overrides).rows if row.name == "train"]
    assert (new.state, left.state) == (NEW, GOES_ON)
    assert left.seconds == pytest.approx(new.seconds / 4)


def test_a_model_that_is_taken_as_it_is_asks_nothing():
    work = trained({"steps": 0}, 0)
    assert (work.images, work.words, work.training) == (0, "as it was", None)


def asked_of(name: str, parts: dict, *words: str, attack: object = None) -> Asked:
    """What a stage of a request asks, whose images and parts are not made."""
    (config,) = jobs(list(words), False)
    loop = loop_config(config.runtime)
    run = SimpleNamespace(config=config, attack=attack, stages=SimpleNamespace(loop=loop))
    work = asked(run, Step(name, Stage(name, "key", Path("none"), parts, 1), NEW))
    assert work is not None
    return work


TRAIN = asdict(toys.train_config(steps=10, batch_size=6, epochs=None))


@pytest.mark.parametrize(
    ("removal", "images", "passes"),  # of a row: of the network that is trained, and worth of all
    [("finetune", 1, 3), ("elijah", 3, 3 * 3 + 1), ("diff_cleanse", 1, 3 + 1), ("anp", 1, 3)],
)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_removals_training_counts_all_that_it_shows(removal, images, passes, recompute):
    words = ["defense=elijah", "defense.repair=true", f"defense/removal={removal}", f"runtime.recompute={recompute}"]
    (config,) = jobs(words, False)
    settings = OmegaConf.to_container(config.defense.removal, resolve=True) | {"train": TRAIN}
    work = asked_of("repair", {"repair": settings}, *words)
    assert (work.images, work.batch) == (images * 10 * 6, images * 6)
    assert work.images * work.passes == pytest.approx(10 * 6 * (passes + images * recompute))


def test_a_trigger_that_is_learned_with_the_model_is_counted_with_its_training():
    words = ["attack=invibackdoor"]
    own, clean = (
        {"train": TRAIN, "attack": {"_target_": f"bdiff.attack.{one}"}}
        for one in ("invibackdoor.InviBackdoor", "none.NoAttack")
    )
    trigger = toys.attack().trigger
    attack = InviBackdoor(trigger, trigger.pattern, 0.1, "replace", 0.2, 0.1, 5, 4, 1)
    work = asked_of("train", own, *words, attack=attack)
    assert work.beside == 5 * 4 and work.images * work.passes == pytest.approx(10 * (6 * 3 + 5 * 4 * 2))
    assert asked_of("train", clean, *words, attack=attack).passes == 3


def test_a_trigger_that_is_learned_on_a_classifier_asks_that():
    parts, on_model = {"precision": "bf16"}, SimpleNamespace(learn=9, learns_on_model=True)
    words, attack = ["attack=uibdiffusion"], SimpleNamespace(learn=9, learns_on_model=False)
    alone = asked_of("trigger", parts, *words, attack=attack)
    own = asked_of("trigger", parts, *words, "classifier@surrogate=resnet18", attack=attack)
    assert (alone.network, own.network, alone.gradients) == (CLASSIFIER, SURROGATE, False)
    model = asked_of("trigger", parts, attack=on_model)
    assert (model.network, model.gradients, model.precision) == (DENOISER, True, "bf16")


@pytest.mark.parametrize(
    ("adaptive", "gradients"),
    [({"steps": 0}, False), ({"steps": 2, "gradient": "full"}, True), ({"steps": 2, "gradient": "bpda"}, False)],
)
def test_an_attack_through_a_shield_keeps_activations_where_it_takes_the_full_gradient(adaptive, gradients):
    words = ["defense=purification", *(f"defense.adaptive.{name}={value}" for name, value in adaptive.items())]
    parts = {"what": "purification", "inputs": {"clean": "a"}, "models": ["one"]}
    assert asked_of("shield", parts, *words).gradients == gradients


def test_what_is_wrong_or_not_a_command_is_refused(tmp_path, capsys):
    assert cli.command(["run", "runtime.plan=true", "data=images", f"paths.cache={tmp_path}"]) == 2
    assert "how many images there are in data images is not known" in capsys.readouterr().err
    wrong = [
        "sampler=ddim",
        "sample.steps=4",
        "+sampler.step.nonsense=1",
    ]  # which a run finds out only when it has begun
    assert cli.command(["run", "runtime.plan=true", *TINY, *wrong, f"paths.cache={tmp_path}"]) == 2
    assert "nonsense" in capsys.readouterr().err
    with pytest.raises(RequestError, match="starts nothing"):
        bdiff.run(["runtime.plan=true", *TINY, f"hydra.run.dir={tmp_path}/run"])
    assert not [*tmp_path.iterdir()]


def test_an_input_check_plans_its_scores_and_the_detections_own_inversion(decoded):
    check = DEFENSES["terd_input"]
    alone = [word.replace("inversion.", "") for word in check if "inversion" in word]
    rows = {
        one: {row.name: row for row in planned(decoded, [f"defense={one}", *words]).rows}
        for one, words in (("terd", alone), ("terd_input", check))
    }
    inverted = rows["terd_input"]["audit"]
    assert inverted.key == rows["terd"]["audit"].key and inverted.words == rows["terd"]["audit"].words
    assert rows["terd_input"]["inputs"].words == "48 inputs x 0" and rows["terd_input"]["inputs"].seconds == 0
