"""`bdiff run` from end to end on the digits, with budgets of seconds."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from runs import runner
from safetensors.torch import load_file

from bdiff import __version__
from bdiff.cli import main as cli

TINY = [
    "data.limit=64", "train.steps=6", "train.batch_size=8", "train.warmup=2", "sample.count=12", "sample.batch_size=6",
    "sample.steps=4", "classifier.train.steps=5", "runtime.progress=1000", "train.precision=fp32",
    "model.unet.block_out_channels=[8,8,8]",
]  # fmt: skip


run = runner(*TINY)


@pytest.fixture(scope="module")
def first(home) -> tuple[Path, dict]:
    code, record = run(home, "first")
    assert code == 0
    return home / "first", record


def test_metrics_json_says_what_was_measured_and_how(first):
    record = first[1]
    assert (record["schema"], record["status"]) == (1, "done")
    assert set(record["keys"]) == set(record["seconds"]) - {"data", "total"}
    assert {"train", "sample", "measure", "classifier", "reference"} == set(record["keys"])
    names = {"mse", "ssim", "psnr", "asr", "asr_se", "false_trigger", "false_trigger_se", "fid_classifier"}
    assert set(record["metrics"]) == {f"suspect/{name}" for name in names} | {"data/false_trigger"}
    protocol = record["protocol"]
    assert (protocol["asr"]["threshold"], protocol["asr"]["count"]) == (0.05, 12)
    assert protocol["images"] == 12
    assert protocol["sampler"] == {"name": "DDPMScheduler", "steps": 4, "first_t": 99, "clip": False}
    fid = protocol["fid_classifier"]
    assert (fid["sample_count"], fid["reference_count"], fid["extractor"]) == (12, 64, "SmallCNN")
    assert {"torch", "diffusers", "python"} <= set(record["versions"])
    assert record["version"] == __version__ and record["device"].startswith("CPU (")


def test_provenance_says_what_made_each_stage_also_where_it_is_reused(home, first):
    record = first[1]
    assert set(record["provenance"]) == set(record["keys"])
    for name, made in record["provenance"].items():
        assert made["key"] == record["keys"][name] and made["seconds"] == record["seconds"][name]
        assert {"commit", "dirty", "version", "versions", "device", "precision", "threads", "finished"} <= made.keys()
        assert made["versions"]["torch"] == record["versions"]["torch"] and made["device"] == record["device"]
    made = {name: made["precision"] for name, made in record["provenance"].items()}
    settled = yaml.safe_load((first[0] / "config.yaml").read_text())
    assert made == {
        "train": settled["train"]["precision"],
        "sample": settled["sample"]["precision"],
        "classifier": settled["classifier"]["train"]["precision"],
        "reference": "fp32",
        "measure": "fp32",
    }
    assert "auto" not in [settled[part]["precision"] for part in ("train", "sample")]
    _, again = run(home, "reusing")
    assert again["provenance"] == record["provenance"] and set(again["reused"]) == set(record["keys"])


def test_a_stage_of_before_has_no_word_on_what_made_it(home, first):
    path = home / "outputs" / "measure" / first[1]["keys"]["measure"] / "manifest.json"
    kept = path.read_text()
    manifest = json.loads(kept)
    del manifest["made_by"]
    path.write_text(json.dumps(manifest))
    code, record = run(home, "older")
    path.write_text(kept)
    assert code == 0 and set(record["provenance"]["measure"]) == {"key", "seconds", "finished"}


def test_the_run_folder_holds_all_that_is_needed(first):
    folder = first[0]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    figures = ("clean", "loss", "overview", "stamped_example", "target", "trajectory", "trigger", "triggered")
    expected = {"config.yaml", "overrides.yaml", "run.log", "metrics.json", "progress.jsonl", "report.html"}
    expected |= {f"figures/{name}.png" for name in figures}
    assert files == expected
    assert "${" not in (folder / "config.yaml").read_text()
    rows = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    assert rows[-1] == first[1]["metrics"]
    assert rows[0]["train/step"] == 6
    for name in ("overview", "loss"):
        picture = np.asarray(Image.open(folder / "figures" / f"{name}.png").convert("RGB"))
        assert picture.std() > 10  # something is drawn on it


def test_the_same_request_again_reuses_everything(home, first):
    code, record = run(home, "again")
    assert code == 0
    assert record["reused"] == ["train", "sample", "classifier", "reference", "measure"]
    assert record["metrics"] == first[1]["metrics"]
    assert record["keys"] == first[1]["keys"]


@pytest.mark.parametrize(
    ("override", "anew"),
    [
        ("metric.asr_threshold=0.2", {"measure"}),
        pytest.param("target=hat", {"train", "sample", "measure"}, marks=pytest.mark.slow),
        ("sample.count=18", {"sample", "measure"}),
        pytest.param("metric/fid=none", {"measure"}, marks=pytest.mark.slow),
        pytest.param("runtime.log_every=1", set(), marks=pytest.mark.slow),
        ("classifier.model.width=8", {"classifier", "reference", "measure"}),
        ("seed=1", {"train", "sample", "measure", "classifier", "reference"}),  # a limited data set follows the seed
    ],
)
def test_only_what_a_change_touches_is_made_again(home, first, override, anew):
    code, record = run(home, re.sub(r"\W", "-", override), override)
    assert code == 0
    assert set(record["keys"]) - set(record["reused"]) == anew


def test_the_model_folder_is_a_stock_diffusers_pipeline(first):
    from diffusers import DDPMPipeline

    folder = Path(first[1]["model"])
    pipeline = DDPMPipeline.from_pretrained(folder)
    assert pipeline.scheduler.config.num_train_timesteps == 100
    assert pipeline.unet.config.sample_size == 16
    pictures = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert pictures.shape == (2, 16, 16, 1)
    assert json.loads((folder / "bdiff.json").read_text())["attack"]["poison_rate"] == 0.1


def test_a_stock_checkpoint_is_where_training_starts(home, first):
    """No step is taken, so the model that comes out is the one that went in."""
    from safetensors.torch import load_file

    code, record = run(home, "stock", f"model.pretrained={first[1]['model']}", "train.steps=0")
    assert code == 0
    before, after = (
        load_file(Path(one["model"]) / "unet/diffusion_pytorch_model.safetensors") for one in (first[1], record)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_clean_baseline_reads_no_trigger(home):
    _, box = run(home, "none-box", "attack=none")
    _, sign = run(home, "none-sign", "attack=none", "trigger=stop_sign")
    assert box["keys"]["train"] == sign["keys"]["train"]
    assert box["keys"]["sample"] != sign["keys"]["sample"]


def test_an_ode_sampler_is_warned_of_and_runs(home, caplog, capsys):
    code, _ = run(home, "ode", "sampler=ddim")
    assert code == 0
    assert "is not made for ODE samplers in 4 steps" in (home / "ode" / "run.log").read_text()


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failed_job(home, capsys):
    words = ["run", "-m", *TINY, "train.lr=1e-3,1e30", f"paths.outputs={home}/outputs", f"paths.cache={home}/cache"]
    code = cli.command([*words, f"hydra.sweep.dir={home}/sweep", "runtime.log_every=1"])
    assert code == 1
    status = [json.loads(path.read_text()) for path in sorted((home / "sweep").glob("*/metrics.json"))]
    assert [one["status"] for one in status] == ["done", "failed"]
    assert "the loss became" in status[1]["error"]
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    assert "asr" in captured.out and "learning rate" in captured.out
    assert (home / "sweep" / "report.html").exists()


def test_data_with_one_class_cannot_be_measured_by_a_classifier(home, tmp_path, capsys):
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    Image.new("L", (16, 16), 200).save(tmp_path / "b.png")
    code, record = run(home, "one-class", f"data.path={tmp_path}", "data.limit=null")
    assert code == 2
    assert record["status"] == "failed"
    assert "one class" in capsys.readouterr().err
    assert "train" not in record.get("keys", {})


def test_a_limit_that_leaves_one_class_is_no_data_for_a_classifier(home, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for place in range(9):
        Image.new("L", (16, 16), 9 * place).save(tmp_path / "a" / f"{place}.png")
    Image.new("L", (16, 16), 200).save(tmp_path / "b" / "0.png")
    code, record = run(home, "one-class-left", f"data.path={tmp_path}", "data.limit=2")
    assert code == 2 and "one class" in record["error"] and "train" not in record.get("keys", {})
    code, record = run(home, "both-left", f"data.path={tmp_path}", "data.limit=null", "classifier.val_fraction=0.999")
    assert code == 0


def test_a_reference_of_one_image_is_refused_before_training(home, tmp_path):
    Image.new("L", (16, 16), 9).save(tmp_path / "a.png")
    code, record = run(home, "one-image", f"data.path={tmp_path}", "data.limit=null")
    assert code == 2 and "has one image, which has no covariance" in record["error"]
    assert "train" not in record.get("keys", {})


def test_a_streamed_picture_that_cannot_be_read_ends_training_with_its_name(home, tmp_path, capsys):
    for place in range(9):
        Image.effect_noise((16, 16), 99).save(tmp_path / f"{place}.png")
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:150])
    words = [f"data.path={tmp_path}", "data.limit=null", "runtime.memory=0", "runtime.workers=2", "metric/fid=none"]
    assert run(home, "streamed", *words)[0] == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        line.startswith(f"bdiff: failed: {tmp_path}: picture 7.png cannot be read") and "replace or remove it" in line
    )


def test_wandb_failing_does_not_fail_the_run(home, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    code, record = run(home, "wandb", "tracker=wandb")
    assert (code, record["status"]) == (0, "done")
    assert "wandb: is off" in (home / "wandb" / "run.log").read_text()


@pytest.mark.slow
def test_pictures_are_known_by_what_they_show(home, tmp_path):
    """The same path with another picture in it is another request; the same picture elsewhere is the same one."""
    keys = []
    for name, grey in (("a", 10), ("b", 10), ("a", 200)):
        path = tmp_path / f"{name}.png"
        Image.new("L", (16, 16), grey).save(path)
        _, record = run(home, f"picture-{len(keys)}", "target=image", f"target.path={path}")
        keys.append(record["keys"]["train"])
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d",
             "--rdzv-endpoint=localhost:0", "-m", "bdiff", "run", *TINY, "runtime.device=cpu",
             "paths.outputs=outputs", "paths.cache=cache"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = tmp_path.glob("outputs/runs/*/*/metrics.json")
    record = json.loads(path.read_text())
    assert record["status"] == "done"
    assert record["metrics"]["suspect/fid_classifier"] > 0
    assert done.stdout.count("suspect/asr") == 1
    assert len(list(tmp_path.glob("outputs/sample/*/shards/*.safetensors"))) == 2


@pytest.mark.slow
def test_two_processes_train_a_classifier_with_batchnorm_as_one_does(tmp_path):
    words = [*TINY, "classifier=resnet18", "classifier.train.steps=3", "classifier.train.batch_size=8", "train.steps=1",
             "sample.count=2", "runtime.device=cpu", "paths.outputs=outputs", "paths.cache=cache"]  # fmt: skip
    environment, weights = os.environ | {"OMP_NUM_THREADS": "1"}, []
    for name, start in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node=2",
                        "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"])):  # fmt: skip
        (tmp_path / name).mkdir()
        done = subprocess.run([sys.executable, *start, "-m", "bdiff", "run", *words], cwd=tmp_path / name,
                              env=environment, capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert ("trains it alone" in done.stderr) == (name == "two")
        (path,) = (tmp_path / name).glob("outputs/classifier/*/model.safetensors")
        weights.append(load_file(path))
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


def test_what_a_killed_writer_left_is_swept_away(home, first):
    """A SIGKILL inside a checkpoint's writing leaves a scratch folder in the stage's."""
    outputs = home / "outputs" / "train" / first[1]["keys"]["train"]
    torn = home / "torn" / "train" / first[1]["keys"]["train"]
    (torn / "state" / ".tmp-abc").mkdir(parents=True)
    (torn / "state" / ".tmp-abc" / "00000003.pt").write_bytes(b"half")
    words = ["run", *TINY, f"paths.outputs={home}/torn", f"paths.cache={home}/cache", f"hydra.run.dir={home}/torn-run"]
    assert cli.command(words) == 0
    assert not (torn / "state").exists()
    assert {path.name for path in torn.iterdir()} == {path.name for path in outputs.iterdir()}


def test_ctrl_c_says_how_to_go_on(tmp_path):
    script = Path(sys.executable).with_name("bdiff")
    words = [script, "run", *TINY, "train.steps=100000", "hydra.run.dir=here"]
    words += [f"paths.cache={tmp_path}/cache", "runtime.progress=0.5"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "loss" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        _, rest = process.communicate(timeout=120)
    finally:
        process.kill()  # or one that did not hear it would train for an hour
    assert process.returncode == 130
    assert "run the same command to resume" in rest
    assert "Traceback" not in rest
    assert json.loads((tmp_path / "here" / "metrics.json").read_text())["status"] == "interrupted"
