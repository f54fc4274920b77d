"""The mode of a stage: chosen before its first step, kept when it goes on, recorded with what fell back."""

import json
from dataclasses import asdict, replace

import pytest
import shared_work
import torch
import toys
from safetensors.torch import load_file

from bdiff.diffusion import engine as engines
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.engine import steady
from bdiff.diffusion.mode import Costs, Mode, Work
from bdiff.metric.fid.base import Features, Frechet
from bdiff.pipeline.certify import certified
from bdiff.pipeline.check_inputs import checked
from bdiff.pipeline.main import compiled_protocol
from bdiff.pipeline.prepare import Pictures
from bdiff.pipeline.reference import settle_features
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import method
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


def test_a_stage_that_goes_on_compiled_finds_the_kernels_that_were_kept(tmp_path, compiler, monkeypatch):
    used = []
    monkeypatch.setattr(Costs, "use", lambda costs: used.append(costs.folder))
    run, one = stages(tmp_path, "auto"), suspect()
    stage = run.stage("inputs", of="this")
    Mode(True, "compiled in 9 s", 4, difference=1e-4).keep(stage.folder, "network")
    run.once(stage, lambda: run.settle(stage, one, WORK) or {})
    assert one.engine.batch == 4 and used == [tmp_path / "compiled"]


def test_a_compiled_stage_goes_on_in_eager_mode_where_that_is_asked_for(tmp_path, compiler):
    run, one = stages(tmp_path, False), suspect()
    stage = run.stage("inputs", of="this")
    Mode(True, "compiled in 9 s", 4, difference=1e-4).keep(stage.folder, "network")
    made = run.once(stage, lambda: run.settle(stage, one, WORK) or {})["made_by"]
    assert one.engine.batch is None and not compiler
    assert made["compiled"]["network"]["reason"] == "compiled in 9 s; then runtime.compile=false"


@pytest.mark.parametrize(("name", "healthy"), [("temporal", 4), ("temporal", 7), ("ufid", 6)])
def test_an_input_check_goes_on_where_the_compiler_fails(tmp_path, monkeypatch, name, healthy):
    """In what is prepared, and in the middle of a batch, which draws the same numbers again."""
    settings = {"temporal": {"references": 3, "steps": 3}, "ufid": {"copies": 2, "steps": 2}}[name]
    config = shared_work.defense(name, count=3, batch_size=2, **settings)
    pictures = Pictures(toys.attack().trigger, toys.attack().target)
    calls: list[int] = []

    def compiled(evaluate, graphs):
        def call(*inputs):
            calls.append(1)
            if len(calls) > healthy:
                raise torch._dynamo.exc.InternalTorchDynamoError("broken")
            return evaluate(*inputs)

        return call

    monkeypatch.setattr(engines, "compiled", compiled)
    found = []
    for setting in (False, True):
        run = stages(tmp_path / f"{setting}", setting)
        checked(
            run, shared_work.model(run), method(config), config, shared_work.diffusion(), toys.attack(), pictures, 0
        )
        (path,) = run.root.glob("inputs/*/scores.safetensors")
        found.append(load_file(path))
    assert "it failed at" in run.provenance["inputs"]["compiled"]["network"]["reason"] and len(calls) == healthy + 1
    for kind, scores in found[0].items():
        torch.testing.assert_close(found[1][kind], scores, rtol=1e-3, atol=1e-5)


def test_a_compiler_that_fails_on_the_way_is_recorded_and_the_work_done(tmp_path, compiler):
    run = stages(tmp_path, True)
    stage, one = run.stage("inputs", of="this"), suspect()

    def build():
        run.settle(stage, one, WORK)
        compiler.append("broken")
        x = torch.ones(3, *one.shape)
        run.settle(stage, suspect(), WORK)  # another model of the same purpose, which does not fail
        assert torch.equal(steady(lambda: one.eps(x, 5)), suspect().eps(x, 5))
        return {}

    reason = run.once(stage, build)["made_by"]["compiled"]["network"]["reason"]
    assert reason.endswith("it failed at InternalTorchDynamoError: broken")


def test_a_training_that_fell_back_on_the_way_is_recorded(tmp_path):
    run = stages(tmp_path, True)
    stage, fell = (
        run.stage("train", of="this"),
        Mode(False, "compiled in 9 s; it failed at the loss", 4, difference=1e-4),
    )
    never = Mode(False, "the compiler failed: at once", 4)

    def build():
        fell.keep(stage.folder, "train")
        never.keep(stage.folder, "other")
        return {}

    assert run.once(stage, build)["made_by"]["compiled"] == {"train": asdict(fell)}
    assert compiled_protocol(run) == {"compiled": {"difference from eager": {"train": {"train": 1e-4}}}}
    assert compiled_protocol(stages(tmp_path, True)) == {}


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


def test_a_certification_compiles_the_classifier_too_and_certifies_the_same(tmp_path, compiler):
    config = shared_work.defense("certification", n0=8, n=40, batch_size=60, stop="never", radii=[0.0, 0.1])
    found, purposes = [], {}
    for setting in (False, True):
        run = stages(tmp_path / str(setting), setting)
        table, shield = shared_work.table(run, config), method(config)
        result = certified(run, shield, table)
        found.append(result.metrics)
        for row, folder in result.protocol["certification"]["tables"].items():
            purposes[row] = {
                *json.loads((next((tmp_path / str(setting)).rglob(folder)) / "manifest.json").read_text())["made_by"][
                    "compiled"
                ]
            }
    assert found[0] == found[1]
    assert purposes["certified_no_shield"] == {"classifier"}
    assert purposes["certified"] == {"classifier", "network"}


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
