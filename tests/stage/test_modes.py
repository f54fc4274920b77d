"""The mode of a stage: chosen before its first step, kept when it goes on, recorded with what fell back."""

from dataclasses import replace

import pytest
import torch
import toys

from bdiff.diffusion import engine as engines
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.engine import steady
from bdiff.diffusion.mode import Costs, Mode, Work
from bdiff.metric.fid.base import Features, Frechet
from bdiff.pipeline.reference import settle_features
from bdiff.pipeline.stages import Stages
from bdiff.tracker.none import NoTracker

WORK = Work(40, 4)


def stages(folder, setting) -> Stages:
    """The stages of a run with runtime.compile as it is set."""
    return Stages(folder, "cpu", NoTracker(), replace(toys.LOOP, compile=setting), Costs(folder / "compiled"))


def suspect() -> Suspect:
    """A toy network as it comes out of a training."""
    torch.manual_seed(0)
    return Suspect(toys.unet(), toys.schedule(), (1, toys.SIZE, toys.SIZE))


@pytest.fixture
def compiler(monkeypatch) -> list[str]:
    """A compiler that takes no time, and fails once "broken" is in the list, which tells its calls."""
    calls: list[str] = []

    def compiled(evaluate, graphs):
        def call(network, *inputs):
            calls.append("call")
            if "broken" in calls:
                raise torch._dynamo.exc.InternalTorchDynamoError("broken")
            return evaluate(network, *inputs)

        return call

    monkeypatch.setattr(engines, "compiled", compiled)
    return calls


def test_a_mode_is_recorded_in_the_manifest(tmp_path, compiler):
    run = stages(tmp_path, True)
    stage, one = run.stage("inputs", of="this"), suspect()

    def build():
        run.settle(stage, one, WORK)
        one.eps(torch.zeros(3, *one.shape), 5)
        return {}

    made = run.once(stage, build)["made_by"]
    assert made["compiled"]["network"]["difference"] < 1e-5 and one.engine.batch == 4
    assert "times as fast" in made["compiled"]["network"]["reason"] and compiler
    assert run.provenance["inputs"]["compiled"] == made["compiled"]


@pytest.mark.parametrize("setting", [False, "auto"])
def test_little_work_is_done_in_eager_mode_and_recorded_as_nothing(tmp_path, compiler, setting):
    run = stages(tmp_path, setting)
    stage, one = run.stage("inputs", of="this"), suspect()
    made = run.once(stage, lambda: run.settle(stage, one, WORK) or {})["made_by"]
    assert made["compiled"] == {} and one.engine.batch is None and not compiler


def test_a_stage_goes_on_in_the_mode_it_began_with(tmp_path, compiler):
    first, second = stages(tmp_path, True), stages(tmp_path, "auto")
    stage, one, two = first.stage("inputs", of="this"), suspect(), suspect()

    def killed():
        first.settle(stage, one, WORK)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.once(stage, killed)
    again = second.stage("inputs", of="this")
    second.once(again, lambda: second.settle(again, two, WORK) or {})  # too little work for auto to choose so itself
    assert two.engine.batch == 4 and Mode.kept(stage.folder, "network").compiled


def test_a_compiler_that_fails_on_the_way_is_recorded_and_the_work_done(tmp_path, compiler):
    run = stages(tmp_path, True)
    stage, one = run.stage("inputs", of="this"), suspect()

    def build():
        run.settle(stage, one, WORK)
        compiler.append("broken")
        x = torch.ones(3, *one.shape)
        assert torch.equal(steady(lambda: one.eps(x, 5)), suspect().eps(x, 5))
        return {}

    reason = run.once(stage, build)["made_by"]["compiled"]["network"]["reason"]
    assert reason.endswith("it failed at InternalTorchDynamoError: broken")


def test_networks_of_a_stage_have_modes_by_their_purpose(tmp_path, compiler):
    run = stages(tmp_path, True)
    stage, forth, back = run.stage("shield", of="this"), suspect(), suspect()

    def build():
        run.settle(stage, forth, WORK)
        run.settle(stage, back, Work(40, 2, gradients=True), "adaptive")
        return {}

    compiled = run.once(stage, build)["made_by"]["compiled"]
    assert {purpose: (one["batch"], one["gradients"]) for purpose, one in compiled.items()} == {
        "network": (4, False),
        "adaptive": (2, True),
    }
    assert (forth.engine.gradients, back.engine.gradients) == (False, True)


class Means(Features):
    """The mean of each channel, and of the upper half."""

    suffix, num_features = "_means", 2

    def forward(self, pixels):
        x = pixels.float() / 255
        return torch.cat([x.mean((2, 3)), x[:, :, : x.shape[2] // 2].mean((2, 3))], 1)

    def identity(self):
        return {"extractor": "means"}

    def logits(self, activations):
        return activations


def test_features_have_a_mode_too_and_their_distance_is_the_same(tmp_path, compiler):
    run = stages(tmp_path, True)
    stage, features = run.stage("reference", of="this"), Means()
    features.scale = torch.nn.Parameter(torch.ones(1))  # as what is compiled has weights
    images = toys.images(20).pixels

    def distance() -> float:
        found = Frechet(features, torch.device("cpu"))
        found.feed(images[:12].split(4), real=True)
        found.feed(images[8:].split(4), real=False)
        return found.value()

    def build():
        settle_features(run, stage, features, (1, toys.SIZE, toys.SIZE), Work(20, 5))
        return {"distance": distance()}

    manifest = run.once(stage, build, together=True)
    calls = len(compiler)
    features.engine.fall_back()
    assert manifest["distance"] == pytest.approx(distance()) and calls > 6 and len(compiler) == calls
    assert manifest["made_by"]["compiled"]["features"]["batch"] == 5
