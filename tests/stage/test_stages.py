"""A stage is built once, finished and recorded; each can be called with what it needs, without a request."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import toys
from diffusers import DDPMScheduler
from omegaconf import OmegaConf

from bdiff.common.errors import RunError
from bdiff.diffusion.mode import Costs
from bdiff.model import checkpoint
from bdiff.pipeline.measure import Measuring, measure
from bdiff.pipeline.prepare import Pictures
from bdiff.pipeline.sample import Sampling, draw_samples, sample_kinds
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import Diffusion, suspect_of
from bdiff.pipeline.train import InitialWeights, TrainingSetup, clean_model, train_clean, train_denoiser
from bdiff.store.artifacts import Stage
from bdiff.tracker.none import NoTracker

START = InitialWeights(None, None, "epsilon")


class Rows(NoTracker):
    """A tracker that remembers what it was given."""

    def __init__(self):
        self.rows = []

    def log(self, row, step):
        self.rows.append((step, row))


def stages(folder) -> Stages:
    """The stages of a run on the CPU."""
    return Stages(folder, "cpu", Rows(), toys.LOOP, Costs(folder / "compiled"))


def test_a_stage_is_built_once_and_recorded_each_time(tmp_path):
    built = []

    def build():
        built.append(1)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "answer.txt").write_text("42")
        (folder / "state").mkdir()
        return {"images": 3}

    first, second = stages(tmp_path), stages(tmp_path)
    stage = first.stage("measure", samples="some")
    folder = stage.folder
    manifest = first.once(stage, build, "mine")
    assert manifest["images"] == 3 and manifest["files"] == {"answer.txt": 2}
    assert not (folder / "state").exists()  # nobody resumes what is finished
    assert first.keys == {"mine": stage.key} and first.reused == [] and first.started
    assert second.once(stage, build, "mine") == manifest
    assert second.keys == first.keys and second.reused == ["mine"] and not second.started
    assert second.provenance == first.provenance and built == [1]


def test_what_fails_is_not_finished_and_goes_on(tmp_path):
    run = stages(tmp_path)
    stage = run.stage("measure", samples="some")

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run.once(stage, fail)
    assert stage.manifest is None and run.keys == {}
    assert run.once(stage, lambda: {"tried": 2})["tried"] == 2


def test_work_is_kept_until_the_manifest_is_written_and_removed_by_whoever_meets_the_stage_next(tmp_path, monkeypatch):
    run = stages(tmp_path)
    stage = run.stage("measure", samples="some")
    state = stage.folder / "state" / "3.pt"

    def build():
        state.parent.mkdir(parents=True)
        state.write_text("weights")
        return {}

    def killed(*given, **facts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stage, "finish", killed)
        run.once(stage, build)
    assert state.exists() and stage.manifest is None
    assert run.once(stage, dict)["files"] == {} and not state.parent.exists()
    build()  # what is left where a run is killed right behind the manifest
    again = stages(tmp_path)
    again.once(stage, build)
    assert again.reused == ["measure"] and not state.parent.exists()


def on_a_cpu():
    return torch.empty(1 << 50)


def in_numpy():
    return np.empty(1 << 50, np.float32)


def on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 PiB.\nIt is full.")


def elsewhere():
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("name", "build", "said"),
    [
        ("train", on_a_cpu, r"mine ran out of memory on cpu \(.*can't allocate memory.*\): lower runtime.micro_batch"),
        (
            "sample",
            on_a_gpu,
            r"\(CUDA out of memory. Tried to allocate 4 PiB.\): lower sample.batch_size; runtime.plan=",
        ),
        ("audit", in_numpy, "set defense.checkpoint=true, or for an input check defense.inversion.checkpoint=true"),
        ("trigger", in_numpy, "set train.precision=bf16, or a smaller model.unet"),  # its batch cannot be set
        ("shield", in_numpy, r"\(Unable to allocate .*\): lower defense.batch_size"),
        ("classifier", in_numpy, r"\(Unable to allocate .*\): lower its batch_size"),
    ],
)
def test_a_stage_that_runs_out_of_memory_says_what_to_set(name, build, said, tmp_path):
    run = stages(tmp_path)
    with pytest.raises(RunError, match=said) as caught:
        run.once(run.stage(name), build, "mine")
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="mat1"):
        run.once(run.stage(name), elsewhere)


def setup() -> TrainingSetup:
    """Toy images under a toy schedule."""
    images, attack = toys.images(), toys.attack()
    unet = dict(toys.unet().config)
    unet = {key: value for key, value in unet.items() if not key.startswith("_")}
    diffusion = Diffusion(toys.schedule(), {"name": "toy"}, images.shape, torch.device("cpu"))
    return TrainingSetup(unet, diffusion, images, Pictures(attack.trigger, attack.target), 0, {"data": "toy"})


def test_a_denoiser_is_trained_sampled_and_measured_without_a_request(tmp_path):
    run, parts, attack = stages(tmp_path), setup(), toys.attack()
    model = train_denoiser(run, parts, "train", attack, {"name": "toy"}, toys.train_config(steps=3), START)
    assert checkpoint.prediction_of(model.folder / "model") == "epsilon"
    assert [step for step, _ in run.tracker.rows] == [1, 2, 3]

    sample = OmegaConf.create({"count": 5, "triggered": 3, "batch_size": 2, "steps": 4, "clip": True})
    sample.precision = "fp32"
    scheduler = DDPMScheduler(**parts.diffusion.schedule.config)
    sampling = Sampling(parts.diffusion, scheduler, OmegaConf.create({"steps": 4, "step": {}}), sample, 0)
    samples = draw_samples(run, sampling, model, sample_kinds(attack, parts.pictures))
    assert samples.manifest is not None and samples.manifest["images"] == {"clean": 5, "triggered": 3}

    metric = OmegaConf.create({"also": [], "asr_threshold": None})
    key = parts.pictures.keys["target"]
    found = measure(run, samples, Measuring(metric, sample, parts.pictures.target, key, True, ["short"], None, None))
    assert {"suspect/asr", "suspect/mse"} <= found["metrics"].keys()
    assert found["protocol"]["asr"]["count"] == 3 and found["protocol"]["asr"]["marks"] == ["short"]
    assert found["protocol"]["fid"] == {"absent": "metric/fid=none"}
    assert {*run.keys} == {"train", "sample", "measure"} and run.reused == []

    again = stages(tmp_path)
    assert (
        train_denoiser(again, parts, "train", attack, {"name": "toy"}, toys.train_config(steps=3), START).key
        == model.key
    )
    assert again.tracker.rows == run.tracker.rows and again.reused == ["train"]  # a reused history is recorded too


def test_the_clean_model_is_another_and_what_a_training_started_from_is_itself(tmp_path):
    run, parts = stages(tmp_path), setup()
    beside, words = clean_model(run, parts, toys.attack(), toys.train_config(steps=2), START)
    assert words == "the same training without the attack"
    start = START._replace(folder=str(beside.folder / "model"), identity=beside.key)
    same, words = clean_model(run, parts, toys.attack(), toys.train_config(steps=2), start)
    assert words == "the model that training started from" and same.key != beside.key
    assert json.loads((same.folder / "manifest.json").read_text())["poisoned"] == 0
    x = torch.randn(2, *parts.diffusion.shape, generator=torch.Generator().manual_seed(0))
    one, other = (suspect_of(model, parts.diffusion).eps(x, 3) for model in (beside, same))
    assert torch.equal(one, other)
    elsewhere, train = replace(parts, seed=1, images=toys.images(8)), toys.train_config(steps=3, lr=0.5)
    assert clean_model(run, elsewhere, toys.attack(), train, start)[0].key == same.key
    assert train_clean(run, parts, "clean", train, start).key != same.key


def test_the_clean_model_is_trained_as_long_as_the_suspect(tmp_path):
    """Two epochs in batches of 6: 20 rows replaced are 7 steps, and 6 more that are appended make it 9."""
    run, parts, attack = stages(tmp_path), setup(), toys.attack()
    epochs = toys.train_config(steps=None, epochs=2)
    for mode, steps in (("replace", 7), ("append", 9)):
        attack.poison_mode = mode
        model, _ = clean_model(run, parts, attack, epochs, START)
        assert model.key == train_clean(run, parts, "clean", toys.train_config(steps=steps), START).key
