"""`import bdiff` as a library: the examples of its page, and what a call leaves behind."""

import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase

import bdiff
from bdiff.cli.audit import parser
from bdiff.library.records import Records

PAGE = Path(__file__).parents[1] / "docs" / "library.md"
TINY = [
    "data.limit=32", "model.unet.block_out_channels=[8,8,8]", "train.steps=2", "train.batch_size=8", "sample.count=16",
    "sample.batch_size=16", "sample.steps=3", "metric/fid=none", "runtime.device=cpu", "tracker=none",
]  # fmt: skip
ELIJAH = {"steps": 3, "batch": 4}


@pytest.fixture(scope="module")
def made(home) -> bdiff.Record:
    """A run with an audit."""
    return bdiff.run([*TINY, "defense=elijah", *(f"defense.{key}={value}" for key, value in ELIJAH.items()), *at(home)])


def at(home) -> list[str]:
    """Where runs keep what they make."""
    return [f"paths.outputs={home}/outputs", f"paths.cache={home}/cache"]


def test_the_page_s_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BDIFF_CACHE", str(tmp_path / "cache"))
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith("done ") and "atack is not known; did you mean attack?" in printed
    assert re.search(r"^2 1 0\.\d+", printed, re.MULTILINE) and "torch.Size([1, 16, 16])" in printed


def test_every_public_name_is_there_and_on_the_page():
    assert {*bdiff.__all__} < {*dir(bdiff)}
    assert all(getattr(bdiff, name).__doc__ for name in bdiff.__all__)
    assert [name for name in bdiff.__all__ if name not in PAGE.read_text()] == []
    with pytest.raises(AttributeError, match="no attribute 'fun'"):
        bdiff.fun  # noqa: B018


def test_importing_loads_neither_torch_nor_hydra():
    code = "import sys, bdiff; dir(bdiff); print({'torch', 'hydra', 'omegaconf', 'numpy'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "set()\n", answer


def test_a_run_leaves_the_process_as_it_was(home, made, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["notebook", "--with=flags"])
    logger, handler = logging.getLogger("bdiff"), logging.NullHandler()
    logging.root.addHandler(handler)
    before = [*logging.root.handlers], logging.root.level, logger.level, HydraConfig.initialized()
    again = bdiff.run([*TINY, *at(home), "sample.steps=4"])
    assert before == ([*logging.root.handlers], logging.root.level, logger.level, HydraConfig.initialized())
    assert not GlobalHydra.instance().is_initialized() and sys.argv == ["notebook", "--with=flags"]
    assert again.status == "done" and again.folder != made.folder and again.keys["train"] == made.keys["train"]
    logging.root.removeHandler(handler)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("train: reused")]
    assert len(lines) == 1, "each line is logged once, however many runs there were before"
    assert (again.folder / "run.log").read_text().count("train: reused") == 1


def test_hydra_s_version_base_is_put_back(home):
    before = VersionBase.instance().getbase()
    with pytest.raises(bdiff.RequestError):
        bdiff.run(["nonsense=1"])
    assert VersionBase.instance().getbase() is before


def test_within_another_app_of_hydra_s_it_is_reported(home):
    with (
        initialize_config_module("bdiff.conf", version_base="1.3"),
        pytest.raises(bdiff.RequestError, match=r"in use by another app: call bdiff outside of hydra\.main"),
    ):
        bdiff.run([*TINY, *at(home)])


def test_what_is_wrong_is_raised():
    with pytest.raises(bdiff.RequestError, match=r'a list of strings, as in \["attack=none"\]'):
        bdiff.run("attack=none")
    with pytest.raises(bdiff.RequestError) as caught:
        bdiff.run(["atack=none", "train.steps=-1"])
    assert len(caught.value.problems) == 2


def test_a_failed_run_is_raised_and_recorded(home, made, monkeypatch, capfd):
    monkeypatch.setattr("bdiff.pipeline.main.measure", lambda *_, **__: 1 / 0)
    with pytest.raises(bdiff.RunError, match="ZeroDivisionError"):
        bdiff.run([*TINY, *at(home), "name=broken"], quiet=True)
    (failed,) = bdiff.runs(home / "outputs").where(lambda one: one.name == "broken")
    assert failed.status == "failed" and "ZeroDivisionError" in str(failed.error)
    assert "reused" in (failed.folder / "run.log").read_text() and "reused" not in capfd.readouterr().err, "quiet"


def test_runs_are_read_back(home, made):
    records = bdiff.runs(home / "outputs")
    (found,) = records.where(lambda one: one.folder == made.folder.resolve())
    assert found.metrics == made.metrics and found.settings["defense"] == "elijah" and found.protocol == made.protocol
    (row,) = [one for one in records.rows() if one["folder"] == str(found.folder)]
    assert {"name", "status", "folder", "suspect/asr"} < {*row} and "seed" not in row
    with pytest.raises(bdiff.RequestError, match="nowhere is not a folder"):
        bdiff.runs("nowhere")


def test_records_are_plain_rows_without_pandas(made, monkeypatch):
    monkeypatch.setattr("bdiff.library.records.find_spec", lambda name: None)
    records = Records([made])
    assert records.to_pandas() == records.rows()


def test_records_are_a_frame_with_pandas(made):
    pandas = pytest.importorskip("pandas")
    frame = Records([made]).to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame["suspect/asr"][0] == made.metrics["suspect/asr"]


def test_an_audit_says_what_the_run_said(made):
    suspect = bdiff.load_suspect(made.folder, device="cpu")
    verdict = bdiff.audit(suspect, "elijah", data="digits", sampler_steps=3, **ELIJAH)
    assert verdict.score == made.metrics["audit/score"] and not verdict.flagged
    flagged = bdiff.audit(suspect, "elijah", sampler_steps=3, threshold=-0.99, **ELIJAH)
    assert flagged.flagged and flagged.score == verdict.score
    assert bdiff.audit(suspect, "elijah", sampler_steps=3, seed=1, **ELIJAH).score != verdict.score


def test_the_default_detection_is_that_of_the_command():
    assert [inspect.signature(bdiff.audit).parameters["method"].default] == parser().get_default("method")


def test_an_auto_threshold_of_other_models_flags_none(made, caplog):
    bdiff.audit(bdiff.load_suspect(made.folder, device="cpu"), "elijah", sampler_steps=3, **ELIJAH)
    assert "not flagged: the threshold -0.048 is calibrated on data=digits (here unknown)" in caplog.text


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("anp", {}, "defense=anp is not a detection"),
        ("elija", {}, "defense=elija is not known; did you mean elijah?"),
        ("elijah", {"stepps": 3}, "defense.stepps is not known; did you mean defense.steps?"),
        ("elijah", {"lr": "fast"}, "defense.lr=fast must be a number"),
        ("terd", {"window": 101}, "defense.window=101 is more than the schedule's 100 timesteps"),
        ("elijah", {"precision": "bf16"}, "precision is not a setting of bdiff.audit"),
        ("elijah", {"sampler": "dpm"}, "sampler=dpm is not known"),
    ],
)
def test_settings_of_an_audit_are_checked(method, settings, message, made):
    with pytest.raises(bdiff.RequestError, match=re.escape(message)):
        bdiff.audit(bdiff.load_suspect(made.folder, device="cpu"), method, **settings)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A stranger's checkpoint, for images of any size, with a schedule and a prediction of its own."""
    unet = UNet2DModel(
        sample_size=None, in_channels=3, out_channels=3, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=40, beta_end=0.2, prediction_type="v_prediction")
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_a_stranger_s_checkpoint_says_its_schedule_and_prediction(checkpoint):
    suspect = bdiff.load_suspect(checkpoint, shape=(3, 8, 8), device="cpu")
    assert (len(suspect.schedule), suspect.schedule.config["beta_end"], suspect.prediction) == (40, 0.2, "v_prediction")
    assert not any(weight.requires_grad for weight in suspect.parameters())
    verdict = bdiff.audit(suspect, "elijah", samples=9, sampler="ddim", sampler_steps=4, **ELIJAH)
    assert verdict.trigger.shape == (3, 8, 8)


def test_what_a_checkpoint_leaves_open_is_asked_for(checkpoint):
    with pytest.raises(bdiff.RequestError, match=r"does not have the size of its images: give it.* shape=\(C, H, W\)"):
        bdiff.load_suspect(checkpoint)
    (checkpoint / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(bdiff.RequestError, match=r'has no scheduler_config.json, .* schedule={"num_train_timesteps"'):
        bdiff.load_suspect(checkpoint, shape=(3, 8, 8))
    schedule = {"num_train_timesteps": 50}
    with pytest.raises(
        bdiff.RequestError, match=r"what it predicts is unknown: give it, .* prediction= \(epsilon, sample"
    ):
        bdiff.load_suspect(checkpoint, shape=(3, 8, 8), schedule=schedule)
    with pytest.raises(
        bdiff.RequestError, match=r"prediction=v is not known \(choose from epsilon, sample, v_prediction"
    ):
        bdiff.load_suspect(checkpoint, shape=(3, 8, 8), schedule=schedule, prediction="v")
    given = {"shape": (3, 8, 8), "schedule": schedule, "prediction": "v_prediction", "device": "cpu"}
    suspect = bdiff.load_suspect(checkpoint, **given)
    assert (len(suspect.schedule), suspect.prediction) == (50, "v_prediction")


def test_what_is_no_checkpoint_is_reported(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(bdiff.RequestError, match=r"the model of the run .* is missing"):
        bdiff.load_suspect(tmp_path)
