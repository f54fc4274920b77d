"""Learned triggers from end to end: shaped before training, kept as a picture, and taken again from it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import carry_out, runner
from safetensors.torch import load_file
from tiny import TINY as SMALL

from bdiff.attack.baddiffusion import BadDiffusion
from bdiff.attack.learned_trigger import LearnedTrigger
from bdiff.attack.uibdiffusion import UIBDiffusion
from bdiff.pictures.draw import load
from bdiff.pipeline import main
from bdiff.pipeline.train import InitialWeights
from bdiff.pipeline.trigger import learn_trigger, rgba
from bdiff.store.artifacts import content
from bdiff.trigger.base import Trigger
from bdiff.trigger.box import box

TINY = [
    "data.limit=64", "train.steps=4", "train.batch_size=8", "train.precision=fp32",
    "model.unet.block_out_channels=[8,8,8]",
    "sample.count=6", "sample.steps=2", "classifier.train.steps=5", "runtime.progress=1000", "metric/fid=none",
    "attack=diff2",
]  # fmt: skip
PRETRAINED = [
    "pretrain=digits", "pretrain.train.steps=4", "pretrain.train.batch_size=8", "pretrain.train.precision=fp32",
]  # fmt: skip

SETTINGS = {"_target_": "mine.Attack", "learn": 3, "case": 1}

run = runner(*TINY)


def test_a_trigger_is_learned_once_and_can_be_taken_from_its_picture(home):
    code, record = run(home, "learned", *PRETRAINED, "attack.learn=4")
    assert code == 0
    picture = home / "outputs" / "trigger" / record["keys"]["trigger"] / "trigger.png"
    pixels = np.asarray(Image.open(picture))
    assert (pixels[..., 3] == 255).all()  # all of it is added: black is no background
    plain = run(home, "plain", *PRETRAINED)[1]
    assert "trigger" not in plain["keys"] and plain["keys"]["train"] != record["keys"]["train"]

    again = run(home, "again", *PRETRAINED, "attack.learn=4")[1]
    assert {"trigger", "train"} <= {*again["reused"]}
    taken = run(home, "taken", *PRETRAINED, "trigger=image", f"trigger.path={picture}")[1]
    assert taken["keys"]["train"] == record["keys"]["train"]


def key_of(version: int = 1, prediction: str = "epsilon") -> dict[str, Any]:
    """What the key of a trigger holds that is learned with these settings."""
    asked: dict[str, Any] = {}

    def stage(name, **parts):
        asked.update(parts)
        raise InterruptedError

    pictures, images = SimpleNamespace(keys={}), SimpleNamespace(fingerprint="toy")
    parts = SimpleNamespace(pictures=pictures, unet={}, diffusion=SimpleNamespace(key={}), images=images, seed=0)
    attack = SimpleNamespace(reads=(), learn_reads=("case", "later"), version=2, learn_version=version)
    with pytest.raises(InterruptedError):
        start = InitialWeights(None, None, prediction)
        learn_trigger(SimpleNamespace(stage=stage), parts, attack, SETTINGS, None, start, "fp32")
    return asked


@pytest.mark.parametrize(("version", "added"), [(1, {}), (2, {"version": 2})])
def test_another_version_of_what_is_learned_is_learned_again(version, added):
    assert key_of(version)["attack"] == SETTINGS | added


def test_a_trigger_that_is_learned_on_another_prediction_is_another():
    assert "prediction" not in key_of() and key_of(prediction="sample") == key_of() | {"prediction": "sample"}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_is_the_pattern_to_within_its_rounding(tmp_path, channels):
    pattern = torch.rand((channels, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1
    pattern[:, 0, 0] = -1
    Image.fromarray(rgba(pattern).numpy()).save(tmp_path / "trigger.png")
    found = Trigger.from_picture(load(tmp_path / "trigger.png", 8, "trigger.path"), channels)
    assert not found.mask.any()
    torch.testing.assert_close(found.pattern, pattern, atol=1 / 255 + 1e-6, rtol=0)


def test_a_learned_trigger_is_taken_again_from_its_picture_with_a_bound_of_1(tmp_path):
    start, target = torch.rand((1, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.zeros(1, 8, 8)

    def attack(trigger: Trigger, bound: float) -> LearnedTrigger:
        return LearnedTrigger(trigger, target, 0.3, "replace", "noise", "ancestral", bound, 0)

    learned = attack(Trigger(start, torch.zeros(1, 8, 8)), 0.5).trigger
    Image.fromarray(rgba(learned.pattern).numpy()).save(tmp_path / "trigger.png")
    kept = Trigger.from_picture(load(tmp_path / "trigger.png", 8, "trigger.path"), 1)
    assert torch.equal(attack(kept, 1.0).trigger.pattern, kept.pattern)
    assert not torch.allclose(attack(kept, 0.5).trigger.pattern, kept.pattern, atol=0.1)


def test_the_trigger_of_uibdiffusion_is_taken_again_with_its_strength_over_its_bound(tmp_path):
    start, target = torch.rand((1, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.zeros(1, 8, 8)

    def attack(trigger: Trigger, strength: float, bound: float) -> UIBDiffusion:
        return UIBDiffusion(trigger, target, 0.3, "replace", "ancestral", strength, 0, bound)

    learned = attack(Trigger(start, torch.zeros(1, 8, 8)), 0.1, 0.5)
    Image.fromarray(rgba(learned.trigger.pattern).numpy()).save(tmp_path / "trigger.png")
    kept = Trigger.from_picture(load(tmp_path / "trigger.png", 8, "trigger.path"), 1)
    learned.trigger, taken, again, x = kept, attack(kept, 0.2, 1.0), attack(kept, 0.1, 0.5), torch.zeros(2, 1, 8, 8)
    for shown in (UIBDiffusion.prior, UIBDiffusion.shown):
        torch.testing.assert_close(shown(taken, x), shown(learned, x))
        assert not torch.allclose(shown(again, x), shown(learned, x), atol=0.02)


def darken(attack: BadDiffusion, denoiser, draw: torch.Generator) -> None:
    """A step of learning that can be counted."""
    attack.replace_pattern(attack.trigger.pattern - 0.1)


def test_a_trigger_that_is_learned_with_the_model_is_the_run_s_in_all_that_follows(home, monkeypatch):
    """Figures, the keys of samples, and what a detection is held against; also where the training is reused."""
    monkeypatch.setattr(BadDiffusion, "learns_with_model", True)
    monkeypatch.setattr(BadDiffusion, "update", darken)
    seen, pictures_of = [], main.attack_pictures

    def watched(attack, pictures, images):
        seen.append((attack.trigger.pattern.clone(), pictures.trigger.pattern.clone(), pictures.keys["trigger"]))
        return pictures_of(attack, pictures, images)

    monkeypatch.setattr(main, "attack_pictures", watched)
    words = [*SMALL, "attack=baddiffusion", "trigger=box", "defense=elijah", "defense.steps=3", "defense.samples=9"]
    code, record = carry_out(home, "with-the-model", *words)
    assert code == 0
    begun = Trigger.from_picture(box(size=16, side=14), 1)
    kept = load_file(Path(record["model"]) / "attack.safetensors")["pattern"]
    torch.testing.assert_close(kept, begun.pattern - 0.4)  # of 4 steps
    inverted = load_file(home / "outputs" / "audit" / record["keys"]["audit"] / "trigger.safetensors")["trigger"]
    assert record["metrics"]["audit/l2"] == pytest.approx((inverted - kept).norm().item())

    again = carry_out(home, "with-the-model-again", *words)[1]
    assert {*again["reused"]} == {*again["keys"]} and again["keys"] == record["keys"]
    assert again["metrics"] == record["metrics"]
    for attacks, shown, key in seen:
        assert torch.equal(attacks, kept) and torch.equal(shown, kept) and key == content(kept, begun.mask)
