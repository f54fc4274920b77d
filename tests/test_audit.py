"""`bdiff audit`: a model from elsewhere, judged without data; what is found of it, and what is refused."""

import json
import os
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toys
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub.utils import are_progress_bars_disabled as bars_off
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from bdiff.cli import main as cli
from bdiff.cli.audit import parser, request
from bdiff.common import device
from bdiff.common.errors import RequestError, RunError
from bdiff.common.progress import console
from bdiff.config.instantiate import make
from bdiff.config.options import own_settings
from bdiff.launch.audit import audit_in, begun, copied
from bdiff.library import suspects
from bdiff.library.suspects import load_suspect
from bdiff.model.check import NOISE, weights_files
from bdiff.model.facts import facts
from bdiff.pipeline import audit as pipeline
from bdiff.pipeline.estimate import Row
from bdiff.pipeline.family import eta_of
from bdiff.pipeline.planned import NEW, REUSED, PlannedStages
from bdiff.report.audit import audit_lines, called, verdict

QUICK = ["steps=2", "batch=2", "timesteps=[1.0,0.5]", "samples=9", "--device", "cpu", "--quiet"]
NET = {"layers_per_block": 1, "block_out_channels": (8, 8), "norm_num_groups": 8}
AVERAGED = ["--repair", "new", "--images", "pictures", "--removal", "weight_averaging"]


def saved(folder: Path, size=16, channels=1, prediction="epsilon", steps=8, **more) -> Path:
    """A model of random weights, in diffusers' layout."""
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    net = UNet2DModel(sample_size=size, in_channels=channels, out_channels=channels, **NET | blocks | more)
    DDPMPipeline(
        net, DDPMScheduler(num_train_timesteps=steps, beta_end=0.9, prediction_type=prediction)
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.setenv("BDIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def audited(*words: str) -> tuple[int, dict]:
    """The exit code of an audit, and its audit.json."""
    code = cli.command(["audit", *words])
    (found,) = Path("outputs/audits").glob("*/audit.json")
    return code, json.loads(found.read_text())


def test_an_audit_has_pictures_scores_and_a_verdict_and_goes_on_from_what_is_there(place, capsys):
    saved(place / "theirs", channels=3, prediction="v_prediction")
    code, record = audited("theirs", *QUICK, "--method", "purediffusion", "law=ode")
    assert code == 0 and record["verdict"] == "scores only" and "calibrated on" in capsys.readouterr().out
    model, found = record["model"], record["methods"]["purediffusion"]
    assert (model["shape"], model["prediction"], model["strange"]) == ([3, 16, 16], "v_prediction", [])
    assert model["schedule"]["num_train_timesteps"] == 8 and found["settings"]["law"] == "ode"
    assert found["flagged"] is None and found["value"] == found["metrics"]["score"] == -found["metrics"]["uniformity"]
    assert 0 <= found["metrics"]["called_up"] <= 1
    page = Path(record["page"]).read_text()
    assert page.count("<img") == 3 and "theirs" in page and "law=ode" in page
    assert "the likelier a backdoor" in page  # what the score means
    assert len([*Path("outputs/sample").glob("*/")]) == 2  # with the trigger and without, by the sampler of its family
    (trigger,) = Path("outputs/audit").glob("*/trigger.safetensors")
    before = trigger.stat().st_mtime_ns
    code, record = audited("theirs", *QUICK, "--method", "purediffusion", "law=ode", "threshold=-0.9")
    assert code == 3 and record["verdict"] == "flagged" and trigger.stat().st_mtime_ns == before


def test_a_detection_that_compares_nothing_shows_the_samples_without_its_trigger_too(place):
    saved(place / "theirs")
    quick = ["steps=1", "refine_steps=0", "batch=2", "ddim_steps=2", "window=2"]
    words = ["theirs", *quick, "--device", "cpu", "--method", "terd"]
    _, record = audited(*words, "--quiet")
    page = Path(record["page"]).read_text()
    assert page.count("<img") == 3 and "Without it" in page
    about = facts("theirs", place / "theirs")
    planned = pipeline.plan(request(parser().parse_intermixed_args(words), "terd", about), about)
    assert {row.state for row in planned} == {REUSED}


@pytest.mark.parametrize(
    ("size", "channels", "prediction"),
    [pytest.param(64, 3, "epsilon", marks=pytest.mark.slow), (32, 1, "sample")],
)
def test_a_verdict_is_for_models_of_a_size_that_was_calibrated_on(size, channels, prediction, place):
    saved(place / "theirs", size=size, channels=channels, prediction=prediction, steps=4)
    code, record = audited("theirs", "--device", "cpu", "--quiet")
    assert code == 0 and record["model"]["shape"] == [channels, size, size]
    assert record["model"]["prediction"] == prediction
    assert record["verdict"] == ("scores only" if size > 32 else "nothing found")


@pytest.mark.slow
def test_an_audit_is_the_librarys(place):
    saved(place / "theirs")
    settings = {"steps": 2, "batch": 2, "timesteps": [1.0, 0.5], "samples": 9, "law": "ancestral"}
    _, record = audited("theirs", *QUICK, "--method", "purediffusion", "precision=fp32", "sample.precision=fp32")
    from bdiff.library.suspects import audit

    suspect = load_suspect("theirs", device="cpu", precision="fp32")
    found = audit(suspect, "purediffusion", sampler_steps=8, **settings)
    assert record["methods"]["purediffusion"]["value"] == pytest.approx(found.score, rel=1e-3)


@pytest.mark.slow
def test_a_repaired_copy_is_a_stock_checkpoint(place):
    saved(place / "theirs")
    (place / "pictures").mkdir()
    for k in range(4):
        Image.new("L", (16, 16), 60 * k).save(place / "pictures" / f"{k}.png")
    words = ["--repair", "fixed", "--images", "pictures", "defense.removal.train.steps=2", "--method", "purediffusion"]
    _, record = audited("theirs", *QUICK, *words)
    assert record["repaired"]["folder"] == "fixed" and record["repaired"]["metrics"].keys() >= {"score", "called_up"}
    mended, theirs = (
        load_file(one / "unet/diffusion_pytorch_model.safetensors") for one in (place / "fixed", place / "theirs")
    )
    assert mended.keys() == theirs.keys() and any((mended[name] != theirs[name]).any() for name in mended)
    assert DDPMPipeline.from_pretrained("fixed").unet.config.sample_size == 16
    assert "% after" in audit_lines(record)["repaired"] and Path(record["page"]).read_text().count("<img") == 5


def test_the_verdict_is_written_before_a_repaired_copy_that_cannot_be(tmp_path, monkeypatch):
    weights, page, new = tmp_path / "stage", tmp_path / "out/report.html", tmp_path / "new"

    def audited(*_):
        new.mkdir()
        return {"verdict": "flagged"}, {}, weights

    for name in ("show", "write_audit_page"):
        monkeypatch.setattr(f"bdiff.launch.audit.{name}", lambda *given: None)
    monkeypatch.setattr("bdiff.launch.audit.audited", audited)
    where = f"the repaired model is in {weights}, and the verdict in {page}"
    with pytest.raises(RequestError, match=f"{new} was made meanwhile: {where}"):
        audit_in(page.parent, None, {}, new, "bdiff audit")
    assert not [*new.iterdir()] and json.loads((page.parent / "audit.json").read_text())["verdict"] == "flagged"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=f"cannot be written .*: {where}"):
        copied(weights, tmp_path / "file" / "new", page)


def test_a_class_conditional_model_is_looked_at_for_one_class(place):
    saved(place / "theirs", num_class_embeds=3, norm_num_groups=2)
    net = UNet2DModel.from_pretrained("theirs/unet")
    x, t = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 2])
    for label in (None, 2):
        expected = net(x, t, torch.full((2,), label or 0)).sample
        found = load_suspect("theirs", label=label, device="cpu", precision="fp32").eps(x, t)
        assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(net(x, t, torch.zeros(2).long()).sample, expected, atol=1e-3)
    _, record = audited("theirs", *QUICK, "--class", "2", "--method", "purediffusion")
    assert record["model"]["class"] == 2 and record["page"].endswith("-class2/report.html")
    assert audit_lines(record)["class"] == "2 of 0 to 2: the others were not looked at (--class)"
    assert "Class 2 of 0 to 2: the others were not looked at" in Path(record["page"]).read_text()


def test_the_cost_is_said_and_a_budget_keeps_to_it(place, capfd):
    saved(place / "theirs")
    assert cli.command(["audit", "theirs", "--plan", "--quiet", "--device", "cpu"]) == 0
    assert re.search(r"take about .* here and .*iB", capfd.readouterr().err)
    assert not [*place.glob("outputs/audit*")]
    assert cli.command(["audit", "theirs", "--plan", "--device", "cpu", "--budget", "0.0001"]) == 2
    assert "--budget 0.0001 is too small: this model takes about" in capfd.readouterr().err


def test_the_cost_is_that_of_what_is_left_and_of_one_repair(place, monkeypatch, capfd):
    saved(place / "theirs")
    (place / "pictures").mkdir()
    Image.new("L", (16, 16)).save(place / "pictures" / "black.png")
    asked, state = [], NEW

    def planned(config, facts, repairs=False):
        asked.append((config.defense._target_.rpartition(".")[2], repairs))
        return [Row("audit", asked[-1][0], state, "", 30.0, 2**20), *[Row("repair", "r", state, "", 60.0, 0)] * repairs]

    monkeypatch.setattr(pipeline, "plan", planned)
    words = ["theirs", "--plan", "--device", "cpu", "--method", "elijah,purediffusion", "--budget", "9",
             "--repair", "new", "--images", "pictures"]  # fmt: skip
    assert cli.command(["audit", *words]) == 0
    assert {*asked} == {("Elijah", True), ("PureDiffusion", False)}
    assert "take about 2 min 0 s here" in capfd.readouterr().err
    state = REUSED
    assert cli.command(["audit", *words]) == 0
    assert "nothing is left to do" in capfd.readouterr().err


def test_a_failed_audit_leaves_no_verdict_of_the_one_before(tmp_path, monkeypatch):
    for name in ("audit.json", "report.html"):
        (tmp_path / name).write_text("flagged")
    monkeypatch.setattr(pipeline, "subject", lambda config, facts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        audit_in(tmp_path, None, {"elijah": None}, None, "bdiff audit")
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]


def test_somebody_s_own_pictures_are_left_alone_and_a_killed_audit_s_are_not(tmp_path, monkeypatch):
    own = tmp_path / "figures" / "mine.png"
    own.parent.mkdir()
    own.write_text("mine")
    (tmp_path / "overrides.yaml").write_text("a run's")  # whose pictures no audit removes
    before = {*tmp_path.rglob("*")}
    with pytest.raises(RequestError, match=r"holds figures, which no audit .* set --out to another folder"):
        audit_in(tmp_path, None, {}, None, "bdiff audit")
    assert {*tmp_path.rglob("*")} == before

    def killed(figures, folder, tracker):
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("bdiff.launch.audit.show", killed)
    monkeypatch.setattr("bdiff.launch.audit.audited", lambda *given: ({}, {}, None))
    with pytest.raises(KeyboardInterrupt):
        audit_in(tmp_path / "killed", None, {}, None, "bdiff audit")
    monkeypatch.setattr("bdiff.launch.audit.show", lambda figures, folder, tracker: None)
    monkeypatch.setattr("bdiff.launch.audit.write_audit_page", lambda folder, record: None)
    assert audit_in(tmp_path / "killed", None, {}, None, "bdiff audit")["command"] == "bdiff audit"


def test_what_a_pipeline_loads_is_judged_and_other_weights_are_named(place):
    saved(place / "theirs")
    UNet2DModel.from_pretrained(place / "theirs/unet").save_pretrained(place / "theirs/unet_ema")
    unet = place / "theirs/unet"
    for other in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"):
        (unet / other).write_bytes(b"not read")
    found = facts("theirs", place / "theirs")
    assert weights_files(found.folder) == [unet / "diffusion_pytorch_model.safetensors"]
    assert found.unread == ["unet/diffusion_pytorch_model.bin"]
    assert found.unjudged == [
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet_ema/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    _, record = audited("theirs", *QUICK, "--method", "purediffusion")
    lines = audit_lines(record)
    assert "unet_ema" in lines["others"] and ".bin" in lines["files"] and "hub" not in lines
    assert "unet_ema" in Path(record["page"]).read_text()
    (place / "theirs/model_index.json").unlink()  # as in the checkpoints of a training script
    assert weights_files(found.folder) == [place / "theirs/unet_ema/diffusion_pytorch_model.safetensors"]
    assert facts("theirs", place / "theirs").unjudged == [
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip


def test_all_shards_of_the_weights_are_judged(place):
    saved(place / "theirs")
    unet = place / "theirs/unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    UNet2DModel(sample_size=16, in_channels=1, out_channels=1, **NET, down_block_types=["DownBlock2D"] * 2,
                up_block_types=["UpBlock2D"] * 2).save_pretrained(unet, max_shard_size="8KB")  # fmt: skip
    assert len(weights_files(place / "theirs")) == len([*unet.glob("*.safetensors")]) > 1
    assert facts("theirs", place / "theirs").unjudged == []


def test_of_a_model_on_the_hub_it_is_said_what_was_not_fetched(place, monkeypatch):
    saved(place / "snapshot")
    monkeypatch.setattr(suspects.checkpoint, "fetch", lambda asked, setting: place / "snapshot")
    _, record = audited("owner/name", *QUICK, "--method", "purediffusion")
    assert "other files were not looked at" in audit_lines(record)["hub"]
    assert "other files were not looked at" in Path(record["page"]).read_text()


@pytest.mark.parametrize("quiet", [True, False])
def test_a_download_shows_its_progress_on_a_terminal_alone_and_not_if_it_is_to_be_quiet(quiet, tmp_path, monkeypatch):
    hidden = []
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setattr(console, "quiet_progress", quiet)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: hidden.append(bars_off()) or tmp_path)
    suspects.checkpoint.fetch("owner/name")
    assert hidden == [quiet] and not bars_off()


@pytest.mark.parametrize("asked", [".", "inner/..", "../model", "owner/model", "model/"])
def test_a_model_is_called_by_its_folder_wherever_it_is_asked_for_from(asked, tmp_path, monkeypatch):
    (tmp_path / "model" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "model")
    assert called(asked) == "model"


@pytest.mark.parametrize(
    ("method", "steps"),
    [("terd", {"steps": 3000, "refine_steps": 1000}), ("terd_digits", {"steps": 300, "refine_steps": 30}),
     ("terd_digits", {"steps": 300, "refine_steps": 0}), ("purediffusion", {"steps": 40})],
)  # fmt: skip
def test_a_budget_shortens_all_that_takes_steps_and_leaves_the_rest(method, steps, monkeypatch):
    def planned(config, facts, repairs):
        spent = sum(
            config.defense[name] * cost for name, cost in (("steps", 2.0), ("refine_steps", 9.0)) if name in steps
        )
        return [Row("audit", "k", NEW, "", 100.0 + spent, 0), Row("sample", "k", NEW, "", 50.0, 0)]

    monkeypatch.setattr(pipeline, "plan", planned)
    config = OmegaConf.create({"defense": OmegaConf.merge(own_settings("defense", method), steps)})
    most = sum(row.seconds for row in planned(config, None, False))
    assert pipeline.within(config, None, most) is config
    budget = (most + 150) / 2
    found = pipeline.within(config, None, budget)
    assert budget - 11 <= sum(row.seconds for row in planned(found, None, False)) <= budget
    assert {name: found.defense[name] for name in steps} == {name: value // 2 for name, value in steps.items()}
    with pytest.raises(RequestError, match="is too small"):
        pipeline.within(config, None, 150 + 2.0 * 9)


def test_a_killed_audit_keeps_the_steps_that_its_budget_has_chosen(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    steps = {"terd": {"steps": 70, "refine_steps": 7}}
    monkeypatch.setattr("bdiff.launch.audit.audited", killed)
    with pytest.raises(KeyboardInterrupt):
        audit_in(tmp_path, None, {}, None, "bdiff audit theirs --budget 9", steps)
    assert begun(tmp_path, "bdiff audit theirs --budget 9") == steps
    assert begun(tmp_path, "bdiff audit theirs --budget 8") is begun(tmp_path / "other", "") is None
    config = OmegaConf.create({"defense": own_settings("defense", "terd")})
    assert pipeline.steps_of(pipeline.with_steps(config, steps["terd"])) == steps["terd"]
    for name in ("show", "write_audit_page"):
        monkeypatch.setattr(f"bdiff.launch.audit.{name}", lambda *given: None)
    monkeypatch.setattr("bdiff.launch.audit.audited", lambda *given: ({}, {}, None))
    audit_in(tmp_path, None, {}, None, "bdiff audit theirs --budget 9", steps)
    assert begun(tmp_path, "bdiff audit theirs --budget 9") is None


def test_tensors_of_no_layer_and_files_that_hold_code_are_named(place):
    saved(place / "theirs")
    weights = place / "theirs/unet/diffusion_pytorch_model.safetensors"
    save_file(load_file(weights) | {"payload.hidden": torch.ones(3)}, weights, metadata={"format": "pt"})
    (place / "theirs/loader.py").write_text("import os\n")
    _, record = audited("theirs", *QUICK, "--method", "purediffusion")
    assert record["model"]["strange"] == ["payload.hidden"] and record["model"]["unread"] == ["loader.py"]
    lines = audit_lines(record)
    assert "payload.hidden" in lines["weights"] and "loader.py" in lines["files"]


@pytest.mark.parametrize(
    ("words", "length"),
    [(["lr=1e-4"], (400, None)), (["epochs=3"], (None, 3))],
)
def test_a_repair_takes_400_steps_unless_its_length_is_given(words, length, place):
    (place / "pictures").mkdir()
    Image.new("L", (16, 16)).save(place / "pictures" / "black.png")
    given = ["theirs", "--repair", "new", "--images", "pictures", *(f"defense.removal.train.{word}" for word in words)]
    about = SimpleNamespace(shape=(1, 16, 16), schedule={"num_train_timesteps": 1000})
    found = request(parser().parse_intermixed_args(given), "purediffusion", about).defense.removal.train
    assert (found.steps, found.epochs) == length


def test_free_memory_is_what_linux_can_give(tmp_path, monkeypatch):
    """Its page cache too, which changes by the minute, and with it would the size of batches."""
    monkeypatch.setattr(device, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  3000 kB\n")
    assert device.free_memory() == 3000 * 1024
    (tmp_path / "meminfo").unlink()
    assert device.free_memory() > 0


def test_a_batch_is_no_larger_than_what_is_drawn_so_that_memory_seldom_changes_it(place):
    about = facts("theirs", saved(place / "theirs"))
    config = request(parser().parse_intermixed_args(["theirs", "--device", "cpu"]), "purediffusion", about)
    pipeline.subject(config, about, PlannedStages)
    assert config.sample.batch_size == config.sample.count == 16


@pytest.mark.parametrize("method", ["purediffusion_mixture", "elijah", "terd"])
def test_samples_take_all_timesteps_in_which_alone_an_ancestral_backdoor_opens(method):
    about = SimpleNamespace(shape=(3, 32, 32), schedule=NOISE)
    config = request(parser().parse_intermixed_args(["theirs"]), method, about)
    assert toys.attack().opens(make(config.schedule), config.sample.steps, eta_of(config.sampler))


class Call:
    """What a pickle of it calls."""

    def __reduce__(self):
        return os.mkdir, ("called",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "none cannot be fetched"),
        (["empty"], "empty holds no UNet config.json"),
        (["pickled"], "is not unpickled, as it does not hold only tensors"),
        (["classes", "--class", "3"], "has the classes 0 to 2, and no 3"),
        (["theirs", "--class", "1"], "is unconditional: it has no class 1"),
        (["embedded"], "has class_embed_type=timestep, which is not supported"),
        (["sizeless"], "does not have the size of its images: give it, by --size PX"),
        (["theirs", "stepz=3"], "defense.stepz is not known; did you mean defense.steps?"),
        (["theirs", "steps"], "steps is not key=value"),
        (["theirs", "model.prediction=v_prediction"], "model.prediction is not a setting of an audit"),
        (["theirs", "data.size=8"], "start with defense., sample., runtime., paths."),
        (["theirs", "--method", "anp"], "--method anp is not known, or no detection: choose from diff_cleanse, elijah"),
        (["theirs", "--method", "foo"], "--method foo is not known"),
        (["pickled", "--plan"], "is not unpickled, as it does not hold only tensors"),
        (["theirs", "--method", ","], "--method names no detection"),
        (["theirs", *AVERAGED], "WeightAveraging needs a clean model, which an audit has not"),
        (["theirs", "--budget", "0"], "--budget 0 must be above 0 minutes"),
        (["theirs", "--size", "4"], "--size 4 must be at least 8 px"),
        (["theirs", *AVERAGED[:4], "defense.removal.train.steps=0"], "defense.removal.train.steps=0 must be"),
        (["theirs", "--repair", "new", "--images", "nope"], "--images nope does not exist"),
        (["theirs", "--repair", "new"], "--repair needs clean pictures"),
        (["theirs", "--repair", "empty", "--images", "x"], "--repair empty exists already"),
        (
            ["theirs", "--repair", "pictures/black.png/x", "--images", "pictures"],
            "x cannot be a folder: pictures/black.png is",
        ),
        (["theirs", *AVERAGED[:4], "--out", "new"], "--repair new is where the audit's page goes (new)"),
        (["theirs", *AVERAGED[:4], "--out", "new/page"], "--repair new is where the audit's page goes (new/page)"),
        (["theirs", "--removal", "elijah"], "--images and --removal are for --repair DIR"),
        (["theirs", "--repair", "new", "--images", "x", "--removal", "foo"], "--removal foo is not known"),
        (["theirs", "--schedule", "foo"], "--schedule foo is not known (choose from digits, linear)"),
        ([], "the following arguments are required: model"),
    ],
)
def test_what_is_wrong_is_refused_by_name(words, message, place, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (place / "empty").mkdir()
    (place / "pictures").mkdir()
    Image.new("L", (16, 16)).save(place / "pictures" / "black.png")
    saved(place / "theirs")
    if words[:1] == ["pickled"]:
        (saved(place / "pickled") / "unet/diffusion_pytorch_model.safetensors").unlink()
        torch.save({"x": Call()}, place / "pickled/unet/diffusion_pytorch_model.bin", pickle_module=pickle)
    if words[:1] == ["classes"]:
        saved(place / "classes", num_class_embeds=3)
    if words[:1] == ["embedded"]:
        saved(place / "embedded", class_embed_type="timestep")
    if words[:1] == ["sizeless"]:
        saved(place / "sizeless", size=None)
    assert cli.command(["audit", *words, "--device", "cpu", "--quiet"]) == 2
    assert message in capsys.readouterr().err and not (place / "called").exists()


def test_sizes_and_schedules_that_a_checkpoint_lacks_are_given(place):
    saved(place / "theirs", size=None)
    assert facts("theirs", place / "theirs", 24).shape == (1, 24, 24)
    (place / "theirs/scheduler/scheduler_config.json").unlink()
    with pytest.raises(RequestError, match="its noise schedule is unknown: give it, as in --schedule linear"):
        facts("theirs", place / "theirs", 24)
    with pytest.raises(
        RequestError, match=r"what it predicts is unknown: give it, by --prediction .*epsilon, sample, v"
    ):
        facts("theirs", place / "theirs", 24, {"num_train_timesteps": 7})
    found = facts("theirs", place / "theirs", 24, {"num_train_timesteps": 7}, prediction="sample")
    assert (found.schedule["num_train_timesteps"], found.prediction) == (7, "sample")


def test_of_a_pipeline_s_unet_the_folder_above_it_is_asked_for(place, monkeypatch):
    saved(place / "theirs")
    monkeypatch.chdir(place / "theirs/unet")
    with pytest.raises(RequestError, match=f"give the folder that holds both, {place / 'theirs'}$"):
        facts(".", Path())


def test_memory_is_bounded_by_recomputing_parts_of_a_batch(place):
    """The gradients are those of the whole batch."""
    saved(place / "theirs")
    x = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for recompute in (False, True, 2):
        suspect = load_suspect("theirs", device="cpu", precision="fp32")
        suspect.recompute = recompute
        y = x.clone().requires_grad_()
        suspect.eps(y, 2).square().sum().backward()
        found.append(y.grad)
    assert torch.equal(found[0], found[1]) and torch.allclose(found[0], found[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flagged", "expected"),
    [((None,), "scores only"), ((False, None), "nothing found"), ((False, True, None), "flagged")],
)
def test_one_method_that_flags_is_enough(flagged, expected):
    assert verdict({str(k): {"flagged": one} for k, one in enumerate(flagged)}) == expected
