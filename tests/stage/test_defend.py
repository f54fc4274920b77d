"""Defenses and amplification through `bdiff run`, with budgets of seconds: numbers, pictures, and what is reused."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import toys
from diffusers import DDPMPipeline
from omegaconf import OmegaConf
from runs import carry_out
from safetensors.torch import load_file
from torch import Tensor

from bdiff.config.compose import jobs
from bdiff.defense.base import Inversion
from bdiff.defense.detection.evidence import kl_of, relative_uniformity, uniformity
from bdiff.diffusion.sampling import shards
from bdiff.pictures.draw import to_channels
from bdiff.pipeline import detect
from bdiff.pipeline.detect import fidelity, input_check
from bdiff.pipeline.threshold import Threshold, resolve_threshold
from bdiff.trigger.box import box

TINY = [
    "data.limit=48", "train.steps=4", "train.batch_size=8", "train.precision=fp32", "sample.count=16",
    "sample.batch_size=6", "sample.steps=3", "sample.precision=fp32", "runtime.progress=1000", "metric/fid=none",
    "model.unet.block_out_channels=[8,8,8]", "defense.removal.train.steps=3", "defense.removal.train.batch_size=8",
]  # fmt: skip
DETECTIONS = {
    "purediffusion": ["defense.steps=3", "defense.batch=4", "defense.probes=0", "defense.threshold=-0.074"],
    "terd": ["defense.steps=3", "defense.refine_steps=1", "defense.batch=2", "defense.ddim_steps=2",
             "defense.threshold=0.03"],
    "elijah": ["defense.steps=3", "defense.batch=4", "defense.threshold=-0.048"],
}  # fmt: skip
PATTERN = torch.from_numpy(to_channels(box(16, 14), 1))

#: what is measured of samples that the target is known of, and of an inverted trigger if there is a true one
HITS = {"mse", "ssim", "psnr", "asr", "asr_se", "false_trigger", "false_trigger_se"}
TRUTH = {"asr", "asr_se", "mse", "l2", "l2_patch", "cosine", "input_tpr", "input_tnr"}
EVIDENCE = {
    "purediffusion": {"loss", "uniformity", "tv", "kl_mean", "kl_variance", "relative_score", "specific_score",
                      "trigger_score", "combined_score"},
    "terd": {"kl_mean", "kl_variance"},
    "elijah": {"uniformity", "tv", "relative_score"},
}  # fmt: skip


class Ran(NamedTuple):
    """A run that has ended."""

    code: int
    folder: Path
    record: dict
    outputs: Path

    def metrics(self, who: str) -> dict[str, float]:
        """The numbers of `who`, by name."""
        start = f"{who}/"
        return {name.removeprefix(start): value for name, value in self.record["metrics"].items() if start in name}

    def stage(self, kind: str, name: str) -> Path:
        """The folder of the stage that the record calls `name`, which is of a `kind`."""
        return self.outputs / kind / self.record["keys"][name]

    def images(self, name: str, kind: str) -> Tensor:
        """All samples of a kind, uint8."""
        return torch.cat([*shards(self.stage("sample", name) / "shards", kind)])

    @property
    def config(self) -> dict:
        """What was asked for."""
        return OmegaConf.to_container(OmegaConf.load(self.folder / "config.yaml"))

    @property
    def trigger(self) -> Tensor:
        """The trigger that the detection inverted."""
        return load_file(self.stage("audit", "audit") / "trigger.safetensors")["trigger"]

    @property
    def figures(self) -> set[str]:
        """The names of the pictures that defenses and amplification add."""
        every = {"clean", "loss", "overview", "stamped_example", "target", "trajectory", "trigger", "triggered"}
        found = {path.stem for path in (self.folder / "figures").iterdir()}
        assert every <= found
        return found - every


def run(home: Path, name: str, *overrides: str) -> Ran:
    """One run in this process."""
    code, record = carry_out(home, name, *TINY, *overrides)
    return Ran(code, home / name, record, home / "outputs")


REPAIRED = ["defense=purediffusion", *DETECTIONS["purediffusion"], "defense.repair=true", "metric/fid=classifier",
            "classifier.train.steps=3"]  # fmt: skip


@pytest.fixture(scope="module")
def repaired(home) -> Ran:
    return run(home, "repaired", *REPAIRED)


@pytest.fixture(scope="module")
def terd(home) -> Ran:
    return run(home, "terd", "defense=terd", *DETECTIONS["terd"])


@pytest.fixture(scope="module")
def both(home) -> Ran:
    """A detection, and an amplification beside it."""
    amplify = ["amplify=purediffusion", "amplify.inversion.steps=3", "amplify.inversion.batch=4", "amplify.scale=1.25"]
    return run(home, "both", "defense=elijah", *DETECTIONS["elijah"], *amplify)


@pytest.mark.parametrize(
    ("fixture", "detection"),
    [("repaired", "purediffusion"), ("terd", "terd"), pytest.param("both", "elijah", marks=pytest.mark.slow)],
)
def test_a_detection_leaves_its_verdict_what_it_rests_on_and_how_near_it_comes(fixture, detection, request):
    ran: Ran = request.getfixturevalue(fixture)
    assert ran.code == 0
    found, trigger = ran.metrics("audit"), ran.trigger
    assert found.keys() == {"score", "flagged", "seconds", "evaluations"} | EVIDENCE[detection] | TRUTH
    assert ran.record["protocol"]["audit"].keys() == {"backdoored", "threshold", "precision", "marks"}
    assert ran.record["protocol"]["audit"]["backdoored"] is True
    assert found["flagged"] == (found["score"] >= ran.record["protocol"]["audit"]["threshold"])
    assert found["l2"] == pytest.approx((trigger - PATTERN).norm().item())
    images = ran.images("audit_sample", "inverted")
    assert len(images) == 16  # from three batches, all of which the detection looks at
    if "kl_mean" in found:
        assert kl_of(trigger).items() <= found.items()
    if "uniformity" in found:
        assert found["uniformity"] == pytest.approx(uniformity(images / 127.5 - 1), rel=1e-5) == -found["score"]
    assert found["seconds"] == ran.record["seconds"]["audit"] and found["evaluations"] > 0
    assert {"inverted", "triggers"} <= ran.figures


@pytest.mark.slow
def test_a_score_relative_to_the_models_own_clean_samples(both):
    inverted, clean = (
        both.images(*one)[:16] / 127.5 - 1 for one in (("audit_sample", "inverted"), ("sample", "clean"))
    )
    assert both.metrics("audit")["relative_score"] == pytest.approx(relative_uniformity(inverted, clean), rel=1e-4)


def test_a_law_of_ode_samplers_is_judged_by_samples_of_one(home):
    """Both from the inverted trigger and without it, though the run's own sampler is ancestral."""
    words = ["defense.law=ode", "defense.flag_by=combined_score", "defense.threshold=0.5", "defense.samples=9"]
    ran = run(home, "ode", "defense=purediffusion", *DETECTIONS["purediffusion"][:3], *words)
    protocol, found = ran.record["protocol"]["audit"], ran.metrics("audit")
    assert (protocol["sampler"], protocol["threshold of"]) == ("DDIMScheduler, 50 steps", "combined_score")
    assert len(ran.images("audit_clean", "clean")) == 9 and len(ran.images("audit_sample", "inverted")) == 16
    inverted, clean = (
        ran.images(*one)[:9] / 127.5 - 1 for one in (("audit_sample", "inverted"), ("audit_clean", "clean"))
    )
    assert found["relative_score"] == pytest.approx(relative_uniformity(inverted, clean), rel=1e-4)
    assert found["combined_score"] == pytest.approx((found["relative_score"] + found["trigger_score"]) / 2)
    assert found["flagged"] == (found["combined_score"] >= 0.5)


@pytest.mark.slow
def test_what_a_detection_cost_is_recorded(repaired, terd, both):
    chain = len(repaired.config["defense"]["timesteps"]) * 4  # images
    assert repaired.metrics("audit")["evaluations"] == chain * (3 + 1)  # three steps, and the clean chain
    assert terd.metrics("audit")["evaluations"] == 3 * 4 + (2 * 2 + 4 + 4)
    assert both.metrics("audit")["evaluations"] == 3 * 4


def test_an_inverted_triggers_samples_are_held_against_the_target(both):
    target = load_file(both.stage("sample", "audit_sample") / "trajectory.safetensors")
    assert {"inverted", "t"} == target.keys()
    corner = torch.full((1, 16, 16), -0.4)
    corner[:, :5, :5] = 0.0
    images = both.images("audit_sample", "inverted")
    errors = (images / 255 - (corner + 1) / 2).square().mean((1, 2, 3))
    assert both.metrics("audit")["mse"] == pytest.approx(errors.mean().item(), rel=1e-3)


def test_a_repaired_model_is_measured_as_the_suspect_and_opens_with_diffusers(repaired):
    assert repaired.metrics("repaired").keys() == repaired.metrics("suspect").keys() == HITS | {"fid_classifier"}
    assert repaired.metrics("repaired") != repaired.metrics("suspect")
    assert repaired.figures == {"triggers", "inverted", "repaired_clean", "repaired_triggered"}
    folder = repaired.stage("repair", "repair")
    assert not (folder / "state").exists() and json.loads((folder / "manifest.json").read_text())["images"] == 5
    pipeline = DDPMPipeline.from_pretrained(folder / "model")
    assert pipeline(batch_size=1, num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 1)
    before = DDPMPipeline.from_pretrained(repaired.record["model"]).unet.state_dict()
    assert any(not torch.equal(before[name], weight) for name, weight in pipeline.unet.state_dict().items())
    rows = [json.loads(line) for line in (repaired.folder / "progress.jsonl").read_text().splitlines()]
    assert any("repair/loss" in row for row in rows)


@pytest.mark.parametrize(("also", "over"), [("[]", "data"), ("[sample_psnr]", "clean")])
def test_the_leak_of_a_class_is_held_against_the_same_before_a_defense_and_after(home, also, over):
    ran = run(home, f"class over {over}", "attack=class_target", "attack.poison_rate=0.5", "defense=clipping",
              "classifier.train.steps=3", f"metric.also={also}")  # fmt: skip
    for who in ("suspect", "guarded"):
        found = ran.metrics(who)
        beside = ran.record["metrics"][f"{over}/false_trigger"]
        assert found["false_trigger_excess"] == pytest.approx(found["false_trigger"] - beside)


def test_the_same_request_again_reuses_everything(home, repaired):
    assert not {"audit", "repair", "repaired_sample"} & {*repaired.record["reused"]}  # others may share the rest
    again = run(home, "again", *REPAIRED)
    assert set(again.record["reused"]) == set(again.record["keys"]) == set(repaired.record["keys"])
    assert set(again.record["keys"]) == {
        "train", "sample", "classifier", "reference", "measure", "audit", "audit_sample", "repair", "repaired_sample",
        "measure_repaired",
    }  # fmt: skip
    assert again.record["metrics"] == repaired.record["metrics"]
    progress = [(one.folder / "progress.jsonl").read_text() for one in (again, repaired)]
    assert progress[0] == progress[1]


@pytest.mark.parametrize(("threshold", "flagged"), [("1e-9", 1.0), ("10", 0.0), ("null", None)])
def test_another_threshold_inverts_nothing_again(home, terd, threshold, flagged):
    ran = run(home, f"threshold{threshold}", "defense=terd", *DETECTIONS["terd"], f"defense.threshold={threshold}")
    assert set(ran.record["reused"]) == set(ran.record["keys"]) and ran.record["keys"] == terd.record["keys"]
    assert ran.metrics("audit").get("flagged") == flagged
    assert ran.metrics("audit")["score"] == terd.metrics("audit")["score"]
    assert ran.record["protocol"]["audit"]["threshold"] == (None if flagged is None else float(threshold))


def test_anp_prunes_a_fraction_of_the_channels(home):
    words = ["defense.train.steps=3", "defense.train.batch_size=8", "defense.count=8", "defense.share=0.1"]
    ran = run(home, "anp", "defense=anp", *words)
    assert ran.code == 0
    assert ran.metrics("repaired").keys() == HITS and ran.metrics("audit") == {}
    assert ran.figures == {"repaired_clean", "repaired_triggered"}
    folder = ran.stage("repair", "repair")
    DDPMPipeline.from_pretrained(folder / "model")
    assert not (folder / "state").exists()
    parts = json.loads((folder / "manifest.json").read_text())["parts"]["repair"]
    assert parts.keys() == {"_target_", "budget", "share", "count", "images", "train"}


def test_clipping_is_the_same_as_sampling_with_it(home):
    guarded, clipped = run(home, "guarded", "defense=clipping"), run(home, "clipped", "sample.clip=true")
    assert guarded.code == clipped.code == 0
    for kind in ("clean", "triggered"):
        images = guarded.images("guarded_sample", kind)
        assert torch.equal(images, clipped.images("sample", kind))
        assert not torch.equal(images, guarded.images("sample", kind))
    assert guarded.metrics("guarded") == clipped.metrics("suspect") != guarded.metrics("suspect")
    assert guarded.figures == {"guarded_clean", "guarded_triggered"} and clipped.figures == set()


def test_amplification_stands_beside_the_trigger_and_its_multiple(both):
    assert both.metrics("amplified").keys() == both.metrics("scaled").keys() == {"asr", "asr_se", "mse"}
    assert both.record["protocol"]["amplify"] == {"scale": 1.25}
    assert both.figures == {"triggers", "inverted", "amplified", "scaled"}
    reinforced = load_file(both.stage("amplify", "amplify") / "trigger.safetensors")["trigger"]
    moved = (reinforced - PATTERN).abs()
    assert 0 < moved.max() <= 3 * 0.05 + 1e-6  # three steps of Adam from the true trigger
    states = load_file(both.stage("sample", "amplified_sample") / "trajectory.safetensors")
    noise = load_file(both.stage("sample", "sample") / "trajectory.safetensors")["clean"][0]
    for kind, trigger in (("amplified", reinforced), ("scaled", 1.25 * PATTERN)):
        torch.testing.assert_close(states[kind][0].float(), noise.float() + trigger, atol=1e-2, rtol=1e-2)


def test_a_clean_model_has_no_trigger_to_come_near_to(home, monkeypatch):
    """So no more samples are drawn from the inverted one than the verdict reads."""
    monkeypatch.setattr(detect, "SHEET", 0)
    ran = run(home, "clean", "attack=none", "defense=elijah", *DETECTIONS["elijah"], "defense.samples=9")
    assert ran.code == 0 and len(ran.images("audit_sample", "inverted")) == 9
    names = {"score", "flagged", "seconds", "evaluations"} | EVIDENCE["elijah"]
    assert ran.metrics("audit").keys() == names
    protocol = ran.record["protocol"]["audit"]
    assert protocol["backdoored"] is False and "no true trigger" in protocol["absent"]
    assert ran.figures == {"triggers", "inverted"}


def test_an_inversion_that_leaves_the_numbers_fails_in_one_line(home, capsys):
    ran = run(home, "diverged", "defense=elijah", *DETECTIONS["elijah"], "defense.lr=1e30")
    assert ran.code == 1 and ran.record["status"] == "failed"
    assert "lower its lr=1e+30" in ran.record["error"] and "Traceback" not in capsys.readouterr().err


def test_fidelity_by_hand():
    mask = torch.tensor([[[1.0, 0.0, 0.0]]])
    pattern = torch.tensor([[[-1.0, 0.0, 0.0]], [[-1.0, 1.0, 0.0]]])
    trigger = torch.tensor([[[1.0, 0.0, -1.0]], [[-1.0, -1.0, 2.0]]])
    found = fidelity(trigger, pattern, mask)
    # differences 2 off the patch, and 0, -1, -2, 2 on it
    assert found["l2"] == pytest.approx(math.sqrt(4 + 9)) and found["l2_patch"] == pytest.approx(3)
    # trigger times pattern: -1 off the patch, +1 and -1 in the second channel
    assert found["cosine"] == pytest.approx(-1 / (math.sqrt(1 + 1 + 1 + 1 + 4) * math.sqrt(3)))
    # on the patch from the background: (1, 0, 0, 3) and (1, 1, 2, 1)
    assert found["cosine_patch"] == pytest.approx((1 + 3) / (math.sqrt(10) * math.sqrt(7)))
    exact = fidelity(pattern, pattern, mask)
    assert exact == {"l2": 0, "l2_patch": 0, "cosine": pytest.approx(1), "cosine_patch": pytest.approx(1)}


@pytest.mark.parametrize(("background", "mask"), [(-1.0, 0.0), (0.0, 1.0)])
def test_angles_are_taken_from_a_background_of_minus_one_alone(background, mask):
    """A trigger that covers the image has none, and nothing is to be seen from another."""
    pattern = torch.tensor([[[background, 0.5, 1.0]]])
    found = fidelity(torch.zeros(1, 1, 3), pattern, torch.tensor([[[mask, 0.0, 0.0]]]))
    assert found.keys() == {"l2", "l2_patch", "cosine"}


def test_the_input_checks_rates_are_those_of_two_gaussians():
    attack = toys.attack()
    true = attack.trigger.pattern  # of norm 7: hardly a noise is taken for another
    assert input_check(attack, Inversion(true, []), 3) == {
        "input_tpr": pytest.approx(1, abs=0.01),
        "input_tnr": pytest.approx(1, abs=0.01),
    }
    assert input_check(attack, Inversion(torch.zeros_like(true), []), 3) == {
        "input_tpr": 0,
        "input_tnr": 1,
    }  # it explains nothing better
    small = 0.2 * true
    length, along = small.norm().item(), (true * small).sum().item() / small.norm().item()
    passed = 0.5 * math.erfc((length / 2 - along) / math.sqrt(2))  # noise plus the true trigger beyond half the way
    wrong = 0.5 * math.erfc(length / 2 / math.sqrt(2))
    found = input_check(attack, Inversion(small, []), 3)
    assert found["input_tpr"] == pytest.approx(passed, abs=0.03) and passed > 0.99
    assert found["input_tnr"] == pytest.approx(1 - wrong, abs=0.05) and 0.2 < wrong < 0.3
    assert input_check(attack, Inversion(-true, []), 3)["input_tpr"] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.size=8", "model.unet.block_out_channels=[8,8]", "model.unet.down_block_types=[DownBlock2D,DownBlock2D]",
          "model.unet.up_block_types=[UpBlock2D,UpBlock2D]"], "size=16 (here 8)"),
        (["schedule.beta_end=0.09"], "beta_end=0.1 (here 0.09)"),
        (["schedule.num_train_timesteps=50"], "num_train_timesteps=100 (here 50)"),
        (["data=digits_faint"], "data=digits (here digits_faint)"),
        (["schedule.beta_schedule=scaled_linear"], "beta_schedule=linear (here scaled_linear)"),
        (["schedule.beta_start=0.002"], "beta_start=0.001 (here 0.002)"),
        (["data.channels=3"], "channels=1 (here 3)"),
        (["defense.steps=99"], "defense.steps=100 (here 99)"),
        (["sample.steps=50"], "sampler_steps=100 (here 50)"),
        (["sampler=ddim"], "sampler=DDPMScheduler (here DDIMScheduler), sampler_steps=100 (here 50)"),
        (["defense.family=ode"], "sampler=DDPMScheduler (here DDIMScheduler), sampler_steps=100 (here 50)"),
    ],
)  # fmt: skip
def test_a_calibrated_threshold_holds_for_what_it_was_calibrated_on_alone(home, overrides, reason):
    (config,) = jobs(["defense=elijah", *overrides], multirun=False)
    found = resolve_threshold(config, config.data._target_.rpartition(".")[2])
    assert reason in found.unflagged and found.rate is found.basis is None
    assert config.defense.threshold is None
    (config,) = jobs(["defense=elijah", *overrides, "defense.threshold=-0.5"], multirun=False)
    assert resolve_threshold(config, "any") == Threshold() and config.defense.threshold == -0.5


def test_a_threshold_that_does_not_hold_here_flags_nothing_and_the_protocol_says_why(home):
    elsewhere = ["defense.threshold=auto", "schedule.beta_end=0.09"]
    ran = run(home, "elsewhere", "defense=elijah", *DETECTIONS["elijah"], *elsewhere)
    assert "flagged" not in ran.metrics("audit")
    why = ran.record["protocol"]["audit"]["not flagged"]
    assert "calibrated on sampler_steps=100 (here 3), beta_end=0.1 (here 0.09), defense.steps=100 (here 3)" in why


def test_the_sampler_of_a_calibration_is_that_of_the_verdict_s_samples():
    """The run's, or where the detection names a family, its usual one: DDPM under an ancestral law."""
    (config,) = jobs(["defense=purediffusion", "sampler=ddim"], multirun=False)
    assert resolve_threshold(config, "digits") == Threshold() and config.defense.threshold == -0.074
    (config,) = jobs(["defense=elijah"], multirun=False)
    assert resolve_threshold(config, "digits") == Threshold() and config.defense.threshold == -0.048


def test_a_poison_rate_that_comes_to_no_image_is_refused(home):
    ran = run(home, "none_poisoned", "attack.poison_rate=0.0001")
    assert ran.code == 2 and "is none: raise it to" in ran.record["error"]
