"""Shields from end to end on the digits, with budgets of seconds; what is computed from answers, by hand."""

import numpy as np
import pytest
import shared_work
import torch
import toys
from PIL import Image
from runs import runner

from bdiff.common.errors import RequestError, RunError
from bdiff.common.progress import Meter
from bdiff.config.compose import jobs
from bdiff.defense.shields import cohen
from bdiff.defense.shields.certification import Certification
from bdiff.defense.shields.purification import Purification
from bdiff.diffusion.mode import Costs
from bdiff.pipeline.planned import PlannedStages
from bdiff.pipeline.shield import asr, shielded
from bdiff.pipeline.shield_table import announce, by_batch, identity, networks_left
from bdiff.pipeline.suspect import method
from bdiff.store.artifacts import Stage
from bdiff.tracker.none import NoTracker

TINY = [
    "data.limit=300", "train.steps=6", "train.batch_size=8", "train.warmup=2", "train.precision=fp32",
    "model.unet.block_out_channels=[8,8,8]", "sample.count=12", "sample.batch_size=6", "sample.steps=4",
    "classifier.train.steps=60", "classifier.model.width=16", "runtime.progress=1000", "defense.precision=fp32",
]  # fmt: skip
PURIFICATION = ["defense=purification", "defense.images=24", "defense.t=2", "defense.batch_size=10"]
CERTIFICATION = [
    "defense=certification", "defense.images=6", "defense.n0=20", "defense.n=60", "defense.batch_size=80",
    "defense.radii=[0.0,0.1,0.25]",
]  # fmt: skip
#: whose trigger leaves the rest of an image
BACKDOOR = ["attack=baddiffusion", "trigger=patch"]
KINDS = ("clean", "adversarial", "triggered", "triggered_adversarial")


run = runner(*TINY)


@pytest.fixture(scope="module")
def purified(home) -> dict:
    code, record = run(home, "purified", *BACKDOOR, *PURIFICATION)
    assert code == 0
    return record


@pytest.fixture(scope="module")
def certified(home) -> dict:
    code, record = run(home, "certified", *BACKDOOR, *CERTIFICATION)
    assert code == 0
    return record


def shields(record: dict) -> dict[str, float]:
    """The metrics of a run's shield."""
    return {name: value for name, value in record["metrics"].items() if not name.startswith(("suspect/", "data/"))}


@pytest.mark.slow
def test_every_row_has_an_accuracy_on_every_kind_of_input(purified):
    rows = ("no_shield", "shield_clean_model", "shield")
    metrics = shields(purified)
    names = {f"{row}/{kind}/accuracy" for row in rows for kind in KINDS} | {f"{row}/asr" for row in rows}
    assert metrics.keys() == names
    assert all(0 <= value <= 1 for value in metrics.values())
    assert metrics["no_shield/clean/accuracy"] > 0.6  # far from chance, or nothing below says anything
    assert metrics["no_shield/adversarial/accuracy"] < metrics["no_shield/clean/accuracy"] - 0.3
    facts = purified["protocol"]["shield"]
    assert (facts["images"], facts["of"], facts["t"]) == (24, "digits test", 2)
    assert facts["classifier"]["key"] == purified["keys"]["classifier"]


def test_asr_counts_those_that_were_right_without_the_trigger():
    clean, triggered = torch.tensor([1, 1, 1, 1, 0, 0]).bool(), torch.tensor([1, 0, 0, 0, 1, 1]).bool()
    assert asr(clean, triggered) == {"asr": 0.75}
    assert asr(torch.zeros(6).bool(), triggered) == {}


def test_the_same_shield_again_is_reused(home, purified):
    code, record = run(home, "again", *BACKDOOR, *PURIFICATION)
    assert code == 0
    assert {*record["keys"]} == {*record["reused"]}
    assert record["metrics"] == purified["metrics"]


def test_another_t_makes_only_what_depends_on_it(home, purified):
    code, record = run(home, "deeper", *BACKDOOR, *PURIFICATION, "defense.t=6", "defense.batch_size=24")
    assert code == 0
    assert {*record["keys"]} - {*record["reused"]} == {"shield", "shield_clean_model"}
    alone = {name for name in record["metrics"] if name.startswith("no_shield/")}
    assert {name: record["metrics"][name] for name in alone} == {name: purified["metrics"][name] for name in alone}


@pytest.mark.slow
def test_the_size_of_batches_changes_no_answer(home, purified):
    words = ["defense.batch_size=24", "defense.adversary.steps=19"]  # one step less, so that nothing is reused
    code, record = run(home, "whole", *BACKDOOR, *PURIFICATION, *words)
    assert code == 0
    for kind in ("clean", "triggered"):
        for row in ("no_shield", "shield_clean_model", "shield"):
            name = f"{row}/{kind}/accuracy"
            assert record["metrics"][name] == purified["metrics"][name]


def test_the_figure_shows_something(home, purified):
    picture = np.asarray(Image.open(home / "purified" / "figures" / "shield.png").convert("RGB"))
    assert picture.std() > 10
    assert "shield.png" not in (home / "purified" / "report.html").read_text()  # it is inside, not linked
    assert "data:image/png" in (home / "purified" / "report.html").read_text()


def test_without_an_attack_the_suspect_is_the_clean_model(home):
    code, record = run(home, "none", "attack=none", "trigger=patch", *PURIFICATION)
    assert code == 0
    metrics = record["metrics"]
    for kind in KINDS:
        assert metrics[f"shield/{kind}/accuracy"] == metrics[f"shield_clean_model/{kind}/accuracy"]
    assert record["keys"]["shield"] == record["keys"]["shield_clean_model"]
    assert "clean" not in record["keys"]  # no clean reference is trained


def test_the_adversary_of_clean_images_knows_no_trigger(home, purified):
    words = ["attack=none", *PURIFICATION, "trigger=stop_sign"]
    code, record = run(home, "other_trigger", *words)
    assert code == 0
    assert "adversarial" in record["reused"]
    assert "no_shield" not in record["reused"]


def test_the_rows_that_are_asked_for(home):
    words = ["defense.adaptive.steps=1", "defense.adaptive.eot=2", "defense.ensemble=true", "defense.strip.overlays=2"]
    words += ["defense.strip.false_positive_rate=0.2", "defense.repair=true", "defense/removal=finetune"]
    words += ["defense.removal.train.steps=2", "defense.removal.train.batch_size=8", "defense.images=10"]
    code, record = run(home, "more", *BACKDOOR, *PURIFICATION, *words)
    assert code == 0
    metrics = shields(record)
    rows = ("shield_clean_model", "shield", "shield_ensemble", "shield_repaired")
    assert {f"{row}/{kind}/accuracy" for row in rows for kind in (*KINDS, "adaptive")} <= metrics.keys()
    assert {"strip/tpr", "strip/fpr"} <= metrics.keys()
    assert "no_shield/adaptive/accuracy" not in metrics
    assert all(0 <= value <= 1 for value in metrics.values())


@pytest.mark.slow
def test_autoattack_is_an_adversary_too(home, purified):
    pytest.importorskip("pyautoattack")
    words = ["defense.adversary.method=apgd", "defense.adversary.steps=5", "defense.images=10"]
    code, record = run(home, "apgd", *BACKDOOR, *PURIFICATION, *words)
    assert code == 0
    metrics = shields(record)
    assert metrics["no_shield/adversarial/accuracy"] < metrics["no_shield/clean/accuracy"] - 0.3
    assert record["keys"]["adversarial"] != purified["keys"]["adversarial"]
    words.append("defense.batch_size=4")  # whose answers depend on the batch
    other = run(home, "apgd smaller", *BACKDOOR, *PURIFICATION, *words)[1]
    assert other["keys"]["adversarial"] != record["keys"]["adversarial"]


def test_autoattack_is_missed_before_anything_is_started(monkeypatch):
    monkeypatch.setattr("bdiff.defense.check.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"needs pyautoattack: pip install 'bdiff\[attacks\]'"):
        jobs(["defense=purification", "defense.adversary.method=apgd"], False)


def test_certified_accuracy_is_read_off_the_tables(home, certified):
    metrics = shields(certified)
    rows = ("certified_no_shield", "certified_clean_model", "certified")
    whats = ("acc@0", "acc@0.1", "acc@0.25", "draws")
    assert metrics.keys() == {
        f"{row}/{kind}/{what}" for row in rows for kind in ("clean", "triggered") for what in whats
    }
    assert all(0 <= value <= 1 for name, value in metrics.items() if "acc@" in name)
    assert all(20 <= value <= 80 for name, value in metrics.items() if "draws" in name)
    assert "only a lower bound" in certified["protocol"]["certification"]["acr"]["absent"]
    for row, folder in certified["protocol"]["certification"]["tables"].items():
        lines = (home / "outputs" / folder / "triggered.tsv").read_text().splitlines()[1:]
        cells = [line.split("\t") for line in lines]
        assert len({one[0] for one in cells}) == 6
        accuracy = sum(one[4] == "1" and float(one[3]) >= 0.1 for one in cells) / 6
        assert metrics[f"{row}/triggered/acc@0.1"] == pytest.approx(accuracy)


@pytest.mark.slow
def test_cohens_fixed_number_has_the_average_radius_and_a_key_without_radii(home, certified):
    words = [*BACKDOOR, *CERTIFICATION, "defense.stop=never"]
    code, record = run(home, "fixed", *words)
    assert code == 0 and {name.rpartition("/")[2] for name in shields(record)} == {
        "acc@0",
        "acc@0.1",
        "acc@0.25",
        "acr",
    }
    code, other = run(home, "fixed_elsewhere", *words, "defense.radii=[0.0,0.3]")
    assert other["keys"]["certified"] == record["keys"]["certified"] != certified["keys"]["certified"]


def test_certification_draws_its_curves(home, certified):
    picture = np.asarray(Image.open(home / "certified" / "figures" / "certified.png").convert("RGB"))
    assert picture.std() > 10


def test_a_killed_certification_certifies_no_image_twice(home, certified):
    folder = home / "outputs" / certified["protocol"]["certification"]["tables"]["certified"]
    path = folder / "triggered.tsv"
    rows = cohen.read(path)
    kept = [row._replace(time="before") for row in rows[:3]]
    path.write_text(cohen.OURS + "".join(map(cohen.text, kept)) + cohen.text(rows[3])[:5])
    (folder / "manifest.json").unlink()
    untouched = (folder / "clean.tsv").read_text()
    code, record = run(home, "certified_again", *BACKDOOR, *CERTIFICATION, "defense.batch_size=40")
    assert code == 0
    assert {*record["keys"]} - {*record["reused"]} == {"certified"}
    again = cohen.read(path)
    assert [row.time == "before" for row in again] == [True] * 3 + [False] * 3
    assert [row[:5] for row in again] == [row[:5] for row in rows]
    assert (folder / "clean.tsv").read_text() == untouched
    assert record["metrics"] == certified["metrics"]


@pytest.mark.slow
def test_settings_of_other_data_are_warned_of(home, purified, capfd):
    code, _ = run(home, "faint", *BACKDOOR, *PURIFICATION, "defense.t=1", "defense.adversary.eps=0.3")
    assert code == 0
    assert "for 32 px and 1000 timesteps there is defense=purification_cifar10" in capfd.readouterr().err
    run(home, "fitting", *BACKDOOR, *PURIFICATION, "defense.adversary.eps=0.05")
    assert "purification_cifar10" not in capfd.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shield", [PURIFICATION, CERTIFICATION], ids=["purification", "certification"])
def test_on_a_gpu_a_shield_answers_as_on_a_cpu(tmp_path, shield):
    words = ["attack=diff2", "attack.t=[2]", "attack.learn=2", "pretrain=digits", "pretrain.train.steps=4", *shield]
    words += ["pretrain.train.precision=fp32", "sample.precision=fp32", "defense.ensemble=true"]
    if shield is PURIFICATION:
        words += ["defense.adaptive.steps=1", "defense.adaptive.eot=2", "defense.strip.overlays=2"]
        words += ["defense.strip.false_positive_rate=0.2"]
    found = {}
    for device in ("cpu", "cuda"):  # each with its own outputs, or the second would take the first one's
        (tmp_path / device).mkdir()
        code, record = run(tmp_path / device, "run", *words, f"runtime.device={device}")
        assert code == 0 and not record["reused"]
        found[device] = {name: one for name, one in shields(record).items() if not name.endswith("/draws")}
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.2)  # rounding moves a label here and there


def test_a_batch_that_is_too_large_for_the_device_is_named_before_the_first_row_is_begun():
    def full(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RunError, match=r"certification ran out of memory on cpu .*: lower defense.batch_size"):
        announce("certification", 10, full, torch.zeros(2, 1, 8, 8), 1)


class Mine(Purification):
    """A shield of another package with settings that another one has too."""


class Sure(Certification):
    """One with radii."""


@pytest.mark.parametrize(
    ("name", "settings", "theirs", "apart"),
    [
        ("purification", {"strip": {"overlays": 2}}, Mine, {"shield", "shield_clean_model", "strip"}),
        ("certification", {}, Sure, {"certified", "certified_clean_model", "certified_no_shield"}),
    ],
)
def test_shields_of_other_packages_with_the_same_settings_share_no_row(tmp_path, name, settings, theirs, apart):
    config, keys = shared_work.defense(name, **settings), []
    assert identity(method(config)) == method(config).key  # as the keys of before have it
    for kind in (type(method(config)), theirs):
        run = PlannedStages(tmp_path, "cpu", NoTracker(), toys.LOOP, Costs(tmp_path / "compiled"))
        shield = method(config)
        object.__setattr__(shield, "__class__", kind)
        shielded(shield, run, shared_work.table(run, config), toys.attack(), toys.images())
        keys.append(run.keys)
    assert {row for row, key in keys[0].items() if keys[1][row] != key} == apart


def test_batches_are_made_once_and_joined_in_order(tmp_path):
    made = []

    def double(part: slice) -> torch.Tensor:
        made.append((part.start, part.stop))
        return 2 * torch.arange(part.start, part.stop)

    first = by_batch(tmp_path / "kept", 7, 3, double, Meter())
    assert first.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert made == [(0, 3), (3, 6), (6, 7)]
    (tmp_path / "kept" / "3-6.safetensors").unlink()
    assert torch.equal(by_batch(tmp_path / "kept", 7, 3, double, Meter()), first)
    assert made[3:] == [(3, 6)]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["attack=diff2", "attack.t=[8,twelve]"], "must be whole numbers from 1 up"),
        (["attack=diff2", "attack.t=[]"], "must be whole numbers from 1 up"),
        (["attack=diff2", "attack.t=8"], "must be a list"),
        (["defense=purification", "defense.t=101"], "t=101 is beyond the schedule's 100 timesteps"),
        (["defense=purification", "defense.steps=9"], "steps=9 must be 1 to defense.t=8"),
        (["defense=purification", "defense.images=0"], "images=0 must be at least 1"),
        (["defense=purification", "defense.images=0.5"], "images=0.5"),
        (["defense=purification", "defense.adversary.norm=l1"], "norm=l1 is not known"),
        (["defense=purification", "defense.adversary.method=cw"], "method=cw is not known"),
        (["defense=purification", "defense.adaptive.gradient=none"], "gradient=none is not known"),
        (["defense=purification", "defense.repair=true"], "use defense/removal=finetune"),
        (["defense=certification", "defense.sigma=9"], "sigma=9 is beyond the schedule, which ends at 6"),
        (["defense=certification", "defense.alpha=1"], "alpha=1 must lie between 0 and 1"),
        (["defense=certification", "defense.radii=[0.5,0.25]"], "must be increasing numbers of at least 0"),
        (["defense=certification", "defense.radii=[0,far]"], "must hold only numbers"),
        (["defense=anp", "defense.images=5"], "is not a fraction"),
        (["classifier.weights=/nowhere/weights.pt"], "classifier.weights=/nowhere/weights.pt does not exist"),
    ],
)
def test_what_cannot_be_is_refused_at_once(words, problem):
    with pytest.raises(RequestError) as error:
        jobs(words, False)
    assert problem in str(error.value)


def test_data_with_one_class_are_refused_before_training(home, capfd):
    folder = home / "faces"
    folder.mkdir()
    for place in range(10):
        Image.new("L", (16, 16), 20 * place).save(folder / f"{place}.png")
    words = [*PURIFICATION, "data=images", f"data.path={folder}", "data.size=16", "data.channels=1", "data.limit=null"]
    code, record = run(home, "faces_run", *words, "metric/fid=none")
    assert code == 2
    assert record["status"] == "failed"
    assert "has one class" in record["error"]


def test_too_few_images_for_the_entropy_check_are_refused_before_training(home):
    words = [*PURIFICATION, "attack=none", "trigger=patch", "defense.strip.overlays=2", "seed=9"]
    code, record = run(home, "few", *words)
    assert code == 2
    assert "defense.strip takes its threshold from half of 24 images" in record["error"]
    assert "train" not in record.get("keys", {})


@pytest.mark.slow
def test_all_of_the_data_leave_what_the_classifier_did_not_see(home):
    words = ["attack=none", "trigger=patch", *PURIFICATION]
    code, record = run(home, "all", *words, "data.split=all", "defense.images=1000")
    assert code == 0
    facts = record["protocol"]["shield"]
    assert facts["images"] == 30  # a tenth of 300
    assert "held out" in facts["of"]


def test_the_cost_counts_networks_of_unfinished_rows_once(tmp_path):
    def stage(key: str) -> Stage:
        return Stage("shield", key, tmp_path / key, {}, 1)

    clean, suspect = stage("a"), stage("b")
    rows = {"none": [], "clean": [clean], "suspect": [suspect], "ensemble": [suspect, clean]}
    stages = {"none": stage("0"), "clean": stage("1"), "suspect": stage("1"), "ensemble": stage("2")}
    assert networks_left(stages, rows) == 3
    stages["ensemble"].finish(1.0)
    assert networks_left(stages, rows) == 1
