"""What a whole run measures when asked for more, how it is named, and when it is measured anew."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from runs import carry_out
from safetensors.torch import load_file
from test_run import TINY

from bdiff.cli import main as cli
from bdiff.config.compose import jobs
from bdiff.config.instantiate import make
from bdiff.metric.fid import moments

LEAK = {"false_trigger", "false_trigger_se"}
ALL = "metric.also=[kid,precision_recall,inception_score,secret,sample_psnr]"


def run(home: Path, folder: str, *overrides: str) -> dict:
    """The metrics.json of a run that comes to its end."""
    code, record = carry_out(home, folder, *TINY, *overrides)
    assert code == 0
    return record


def errors(pixels: np.ndarray) -> np.ndarray:
    """The MSE of images (n,1,16,16) on [0,1] against the corner target: a grey square on a background of -0.4."""
    figure = np.full((16, 16), (-0.4 + 1) / 2)
    figure[:5, :5] = 0.5
    return ((pixels[:, 0] - figure) ** 2).mean((1, 2))


@pytest.fixture(scope="module")
def everything(home) -> dict:
    return run(home, "everything", ALL)


def samples(home: Path, record: dict, name: str, half: str) -> np.ndarray:
    """One half of a run's samples, on [0,1]."""
    shards = sorted((home / "outputs" / "sample" / record["keys"][name] / "shards").iterdir())
    return np.concatenate([load_file(path)[half].double().numpy() for path in shards]) / 255


def test_numbers_over_the_classifier_never_bear_the_plain_name(everything):
    over = {"fid", "kid", "precision", "recall"}  # 12 samples are too few for an Inception score
    base = {"mse", "ssim", "psnr", "asr", "asr_se", "secret_psnr", "secret_ssim", "sample_psnr"} | LEAK
    names = {f"suspect/{name}" for name in base} | {f"suspect/{name}_classifier" for name in over}
    names |= {f"clean/{name}" for name in LEAK} | {"data/false_trigger"}
    assert everything["metrics"].keys() == names
    protocol = everything["protocol"]
    for name in ("fid", "kid", "precision_recall", "inception_score"):
        assert protocol[f"{name}_classifier"]["extractor"] == "SmallCNN"
        assert (protocol[f"{name}_classifier"]["sample_count"], everything["status"]) == (12, "done")


def test_what_falls_short_of_the_protocol_is_marked_and_what_is_unsound_warned_of(everything, home):
    fid = everything["protocol"]["fid_classifier"]
    assert fid["protocol"] == "bdiff"
    short = "fewer samples (12) than the protocol's 10000"
    assert fid["marks"][:2] == [short, "the reference is cut to 64 images by data.limit"]
    assert fid["marks"][2].startswith("fewer samples (12) than feature dimensions")
    log = (home / "everything" / "run.log").read_text()
    assert log.count("fid_classifier: fewer samples (12) than feature dimensions") == 1 and short not in log


@pytest.mark.slow
def test_sample_psnr_is_against_the_clean_reference(everything, home):
    assert everything["protocol"]["sample_psnr"]["clean_model"] == "the same training without the attack"
    assert everything["keys"]["clean"] != everything["keys"]["train"]
    one, other = (samples(home, everything, name, "clean") for name in ("sample", "clean_sample"))
    expected = (-10 * np.log10(((one - other) ** 2).mean((1, 2, 3)))).mean()
    assert everything["metrics"]["suspect/sample_psnr"] == pytest.approx(expected)
    unattacked = run(home, "unattacked", "attack=none", "metric.also=[sample_psnr]")
    assert unattacked["keys"]["train"] == unattacked["keys"]["clean"] == everything["keys"]["clean"]
    same = "the same training without the attack has the suspect's weights, and draws the same images"
    assert unattacked["protocol"]["sample_psnr"] == {"absent": same}
    assert "suspect/sample_psnr" not in unattacked["metrics"]


@pytest.mark.slow
def test_a_training_that_shows_no_poisoned_row_is_marked_and_is_its_own_clean_reference(home, capfd):
    record = run(home, "untrained", "train.steps=0", "metric.also=[sample_psnr]", "metric/fid=none")
    mark = "training steps, 0, show no poisoned row: a backdoor can only be that of the model it started from"
    assert record["protocol"]["asr"]["marks"] == [mark]
    assert f"train: {mark}" in capfd.readouterr().err
    assert record["keys"]["train"] != record["keys"]["clean"]
    assert "has the suspect's weights" in record["protocol"]["sample_psnr"]["absent"]
    few = run(home, "unlucky", "train.steps=1", "train.batch_size=2", "attack.poison_rate=0.02", "metric/fid=none")
    assert few["protocol"]["asr"]["marks"] == [mark.replace(", 0,", ", 1,")]
    assert run(home, "shown", "metric/fid=none")["protocol"]["asr"]["marks"] == []


def test_sample_psnr_is_against_the_model_that_training_started_from(everything, home):
    pretrained = f"model.pretrained={everything['model']}"
    record = run(home, "pretrained", pretrained, "metric.also=[sample_psnr]")
    assert record["protocol"]["sample_psnr"]["clean_model"] == "the model that training started from"
    clean = home / "outputs" / "train" / record["keys"]["clean"] / "model"
    files = [Path(folder) / "unet/diffusion_pytorch_model.safetensors" for folder in (clean, everything["model"])]
    before, after = map(load_file, files)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_secret_is_the_target_in_8_bits(everything, home):
    found = samples(home, everything, "sample", "triggered")
    figure = np.full((16, 16), round((-0.4 + 1) * 127.5) / 255)  # the corner target: grey on a background of -0.4
    figure[:5, :5] = round(127.5) / 255
    expected = (-10 * np.log10(((found[:, 0] - figure) ** 2).mean((1, 2)))).mean()
    assert everything["metrics"]["suspect/secret_psnr"] == pytest.approx(expected, rel=1e-6)


def test_the_leak_is_counted_in_clean_samples_beside_the_clean_models_and_the_datas_own(home):
    words = ["metric.also=[sample_psnr]", "metric/fid=none", "sample.triggered=7"]
    drawn = run(home, "leak", *words)
    kinds = {"suspect": ("sample", "clean"), "clean": ("clean_sample", "clean"), "triggered": ("sample", "triggered")}
    found = {who: errors(samples(home, drawn, *where)) for who, where in kinds.items()}
    found["data"] = errors(load_digits(home).take(torch.arange(64)).double().numpy() / 255)
    for who in found:  # with a threshold that half of its images are below
        threshold = float(np.median(found[who])) + 1e-4
        record = run(home, f"leak-{who}", *words, f"metric.asr_threshold={threshold}")
        metrics = record["metrics"]
        rates = {name: float((own < threshold).mean()) for name, own in found.items()}
        assert 0 < rates[who] < 1 and rates["triggered"] == metrics["suspect/asr"]
        assert {name: metrics[f"{name}/false_trigger"] for name in ("suspect", "clean", "data")} == {
            name: pytest.approx(rates[name]) for name in ("suspect", "clean", "data")
        }
        for name in ("suspect", "clean"):
            error = (rates[name] * (1 - rates[name]) / 12) ** 0.5
            assert metrics[f"{name}/false_trigger_se"] == pytest.approx(error)
    assert "data/false_trigger_se" not in metrics
    assert record["protocol"]["false_trigger"] == {
        "threshold": threshold, "on": "per-image MSE on [0,1]", "count": 12, "of": "clean samples",
        "clean_model": "the same training without the attack",
        "data": "64 of the 64 training images, digits train",
    }  # fmt: skip
    assert record["protocol"]["asr"]["count"] == 7


def load_digits(home: Path):
    """The images that TINY runs train on."""
    (config,) = jobs([*TINY, f"paths.cache={home}/cache"], multirun=False)
    return make(config.data, cache=home / "cache", seed=0, memory=8.0)


@pytest.mark.slow
def test_the_record_says_whether_the_sampler_was_to_open_the_backdoor(home):
    words = ["metric/fid=none", "train.steps=0", "sample.count=2", "sample.batch_size=2"]
    cases = {
        "every": ["sample.steps=100"],
        "few": ["sample.steps=4"],
        "ode": ["sampler=ddim", "sample.steps=10"],
        "as-ancestral": ["sampler=ddim", "sampler.step.eta=1", "sample.steps=100"],
        "none": ["attack=none"],
    }
    found = {name: run(home, f"expect-{name}", *words, *more)["protocol"]["asr"] for name, more in cases.items()}
    assert {name: asr["expected"] for name, asr in found.items()} == {
        "every": True, "few": False, "ode": False, "as-ancestral": True, "none": False,
    }  # fmt: skip


def test_an_attack_without_triggered_samples_has_no_leak_and_says_why(home):
    words = ["attack=diff2", "attack.t=[3]", "attack.steps=2", "metric/fid=none", "train.steps=1"]
    record = run(home, "shielded", *words)
    assert not any("false_trigger" in name for name in record["metrics"])
    for name in ("asr", "false_trigger"):
        assert "no sample starts from it" in record["protocol"][name]["absent"]
    assert "expected" not in record["protocol"]["asr"]


STAGES = {"train", "clean", "sample", "clean_sample", "classifier", "reference", "activations", "measure"}
ANEW = [
    ([ALL], set()),
    (["metric.also=[sample_psnr,secret,inception_score,precision_recall,kid,kid]"], set()),
    (["metric.also=[kid]"], {"measure"}),
    ([ALL, "metric.fid.protocol=pytorch_fid"], {"measure"}),
    ([ALL, "metric.fid.protocol=baddiffusion"], {"measure", "reference", "activations"}),
    ([ALL, "data.split=all"], STAGES),
]


@pytest.mark.parametrize(("overrides", "anew"), ANEW, ids=[" ".join(words) for words, _ in ANEW])
def test_what_changes_the_numbers_is_measured_anew(everything, home, overrides, anew):
    record = run(home, f"anew-{ANEW.index((overrides, anew))}", *overrides)
    assert set(record["keys"]) - set(record["reused"]) == anew
    if anew <= {"measure"}:
        same = record["metrics"].keys() & everything["metrics"].keys()
        assert {name: record["metrics"][name] for name in same} == {name: everything["metrics"][name] for name in same}


@pytest.mark.slow
def test_presets_choose_the_reference_and_the_samples(home, everything):
    record = run(home, "presets", "metric.fid.protocol=baddiffusion", "data.limit=null", "sample.count=2060",
                 "sample.batch_size=1030", "sample.steps=2", "metric/fid=classifier")  # fmt: skip
    fid = record["protocol"]["fid_classifier"]
    assert fid["reference"].startswith("digits all, ")
    assert (fid["reference_count"], fid["sample_count"], fid["marks"]) == (1797, 2048, [])


def test_the_kept_reference_is_a_npz_of_its_images(everything, home):
    kept = moments.read(home / "outputs" / "reference" / everything["keys"]["reference"] / "reference.npz")
    assert kept.count == 64
    assert kept.sigma.shape == (len(kept.mu), len(kept.mu))


@pytest.mark.slow
def test_lpips_is_taken_with_the_weights_at_hand(home, tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet().state_dict(), tmp_path / "alexnet.pth")
    words = ["data.size=32", "metric.also=[lpips]", f"metric.lpips_weights={tmp_path}/alexnet.pth", "metric/fid=none"]
    record = run(home, "lpips", *words)
    assert record["metrics"]["suspect/lpips"] > 0
    assert record["protocol"]["lpips"]["network"] == "AlexNet, no resize"
    assert record["protocol"]["fid"] == {"absent": "metric/fid=none"}
    (tmp_path / "alexnet.pth").rename(tmp_path / "elsewhere.pth")
    again = run(home, "lpips-again", *words[:2], f"metric.lpips_weights={tmp_path}/elsewhere.pth", words[3])
    assert "measure" in again["reused"]


@pytest.mark.slow
def test_published_statistics_take_the_place_of_reference_images(home, weights, tmp_path):
    moments.write(tmp_path / "published.npz", moments.Moments(np.zeros(2048), np.eye(2048), 50_000))
    record = run(home, "published", "metric/fid=inception", f"metric.fid.weights={weights[0]}", "sample.count=4",
                 f"metric.fid.sha256={weights[1][:8]}", f"metric.fid.reference={tmp_path}/published.npz")  # fmt: skip
    assert "suspect/fid" in record["metrics"]
    assert not {"reference", "classifier", "activations"} & record["keys"].keys()
    fid = record["protocol"]["fid"]
    assert (fid["reference"], fid["reference_count"], len(fid["reference_sha256"])) == ("published.npz", 50_000, 64)
    assert "the reference is a file's" in fid["marks"][1]


def test_a_reference_over_other_features_is_refused_before_training(home, weights, tmp_path, capsys):
    moments.write(tmp_path / "a.npz", moments.Moments(np.zeros(64), np.eye(64), 10))
    words = ["run", *TINY, "metric/fid=inception", f"metric.fid.weights={weights[0]}", f"paths.outputs={home}/none",
             f"metric.fid.sha256={weights[1][:8]}", f"metric.fid.reference={tmp_path}/a.npz"]  # fmt: skip
    assert cli.command([*words, f"hydra.run.dir={home}/refused"]) == 2
    assert "is of 64 features, and metric/fid=inception has 2048" in capsys.readouterr().err
    assert not (home / "none").exists()
