"""What is said of a checkpoint folder from its json files alone."""

import json
from pathlib import Path

import pytest

from bdiff.common.errors import RequestError
from bdiff.model.check import LAYOUT, notes, problems
from bdiff.model.facts import facts

UNET = {"in_channels": 3, "out_channels": 3, "sample_size": 32, "layers_per_block": 2}
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
UNET_KEYS = {*UNET, "num_class_embeds", "class_embed_type", "time_embedding_type", "block_out_channels"}
NOISE_KEYS = {*NOISE, "prediction_type", "trained_betas", "rescale_betas_zero_snr", "thresholding", "timestep_spacing"}
NOISE_KEYS |= {
    "use_flow_sigmas",
    "flow_shift",
    "snr_shift_scale",
    "_class_name",
    "clip_sample",
    "set_alpha_to_one",
    "variance_type",
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def checkpoint(folder: Path, nested: bool = True, **changed) -> Path:
    """Write the two configs of a checkpoint that fits `UNET` and `NOISE` but for what is `changed`."""
    for name, config in (("unet/config.json", UNET), ("scheduler/scheduler_config.json", NOISE)):
        own = UNET_KEYS if config is UNET else NOISE_KEYS
        content = config | {key: value for key, value in changed.items() if key in own}
        kind = "UNet2DModel" if config is UNET else "DDPMScheduler"
        write(folder / (name if nested else Path(name).name), json.dumps({"_class_name": kind, **content}))
    write(folder / ("unet" if nested else ".") / "diffusion_pytorch_model.bin", "")  # which only loading looks into
    return folder


def message(pretrained: Path | str | None) -> list[str]:
    return problems(None if pretrained is None else str(pretrained), UNET, NOISE)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_every_prediction_that_is_converted_fits(prediction, tmp_path):
    assert message(checkpoint(tmp_path, prediction_type=prediction)) == []


@pytest.mark.parametrize("pretrained", [None, "google/ddpm-cifar10-32", "someone/some.model-v1"])
def test_hub_ids_are_not_looked_up(pretrained):
    assert message(pretrained) == []


@pytest.mark.parametrize("nested", [True, False])
def test_a_fitting_checkpoint_has_no_problems(nested, tmp_path, monkeypatch):
    checkpoint(tmp_path / "here" / "there", nested)
    assert message(tmp_path / "here" / "there") == []
    monkeypatch.chdir(tmp_path)
    assert message("here/there") == []  # a local folder, though it reads like a hub id
    monkeypatch.setenv("HOME", str(tmp_path))
    assert message("~/here/there") == []


def test_a_checkpoint_without_a_schedule_is_taken_as_it_is(tmp_path):
    checkpoint(tmp_path, beta_end=0.5)
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    assert message(tmp_path) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"in_channels": 1, "out_channels": 1}, "has in_channels=1 and the data 3: set data.channels=1 or"),
        ({"sample_size": 64}, "has sample_size=64 and the data 32: set data.size=64 or"),
        ({"out_channels": 6}, "has in_channels=3 but out_channels=6"),
        ({"num_train_timesteps": 100}, "num_train_timesteps=100, not 1000: set schedule.num_train_timesteps=100"),
        ({"beta_schedule": "scaled_linear"}, "beta_schedule=scaled_linear, not linear: set schedule.beta_schedule="),
        (
            {"beta_start": 0.001, "beta_end": 0.2},
            "beta_start=0.001, beta_end=0.2, not 0.0001, 0.02: set schedule.beta_start=0.001 schedule.beta_end=0.2",
        ),
    ],
)
def test_one_line_for_each_misfit_with_its_mend(changed, said, tmp_path):
    (line,) = message(checkpoint(tmp_path, **changed))
    assert line.startswith(f"model.pretrained={tmp_path} ") and said in line


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prediction_type": "flow_prediction"}, "prediction_type=flow_prediction"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas=[0.1, 0.2]"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=True"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale=3.0"),
        ({"num_class_embeds": 10}, "num_class_embeds=10"),
        ({"class_embed_type": "timestep"}, "class_embed_type=timestep"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type=fourier"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "the scheduler ScoreSdeVeScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "the scheduler FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "CosineDPMSolverMultistepScheduler"}, "the scheduler CosineDPMSolverMultistepScheduler"),
        ({"_class_name": "UnCLIPScheduler"}, "the scheduler UnCLIPScheduler"),
        ({"_class_name": "ConsistencyDecoderScheduler"}, "the scheduler ConsistencyDecoderScheduler"),
        ({"_class_name": "AmusedScheduler"}, "the scheduler AmusedScheduler"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas=True"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas=True"),
    ],
)
def test_what_is_no_unconditional_prediction_of_noise_is_refused_by_name(changed, said, tmp_path):
    (line,) = message(checkpoint(tmp_path, **changed))
    assert f"has {said}, which is not supported: choose an unconditional UNet2DModel" in line


@pytest.mark.parametrize("coder", ["vae", "vqvae"])
def test_a_latent_model_is_refused_by_its_pipeline_s_index(coder, tmp_path):
    write(checkpoint(tmp_path) / "model_index.json", json.dumps({coder: None, "unet": ["diffusers", "UNet2DModel"]}))
    assert message(tmp_path) == [] and facts("theirs", tmp_path).shape == (3, 32, 32)
    write(tmp_path / "model_index.json", json.dumps({coder: ["diffusers", "VQModel"]}))
    assert message(tmp_path) == [
        f"model.pretrained={tmp_path} is a latent model, with a {coder}: choose a model of pixels"
    ]
    with pytest.raises(RequestError, match=f"theirs: is a latent model, with a {coder}"):
        facts("theirs", tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"out_channels": 6}, "has in_channels=3 but out_channels=6"),
     ({"sample_size": [32, 64]}, "is for images of 32x64 px, but bdiff's are square")],
)  # fmt: skip
def test_a_form_that_no_detection_reads_is_refused_before_an_audit(changed, said, tmp_path):
    with pytest.raises(RequestError, match=f"theirs: {said}"):
        facts("theirs", checkpoint(tmp_path, **changed))


def test_a_prediction_that_is_null_is_of_noise(tmp_path):
    assert facts("theirs", checkpoint(tmp_path, prediction_type=None)).prediction == "epsilon"


def test_a_unet_of_another_class_is_refused_by_name(tmp_path):
    config = {**UNET, "_class_name": "UNet2DConditionModel"}
    write(checkpoint(tmp_path) / "unet" / "config.json", json.dumps(config))
    assert "has _class_name=UNet2DConditionModel, which is not supported" in message(tmp_path)[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"prediction_type": "epsilon", "trained_betas": None, "rescale_betas_zero_snr": False},
        {"prediction_type": None, "num_class_embeds": None, "class_embed_type": None, "snr_shift_scale": 1.0},
        {"thresholding": True, "timestep_spacing": "trailing", "clip_sample": True, "set_alpha_to_one": False},
        {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": False, "flow_shift": 1.0},
        {"_class_name": "DPMSolverSDEScheduler"},
        {"_class_name": "DDIMScheduler", "time_embedding_type": "positional", "variance_type": "fixed_large"},
    ],
)
def test_what_changes_only_how_samples_are_drawn_is_fine(changed, tmp_path):
    assert message(checkpoint(tmp_path, **changed)) == []


@pytest.mark.parametrize("size", [[32, 32], None, "left out"])
def test_a_size_that_fits_is_taken_however_it_is_written(size, tmp_path):
    checkpoint(tmp_path, sample_size=size, block_out_channels=[8, 8, 8])
    path = tmp_path / "unet" / "config.json"
    if size == "left out":
        path.write_text(json.dumps({key: value for key, value in UNET.items() if key != "sample_size"}))
    assert message(tmp_path) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sample_size": [64, 64]}, "has sample_size=64 and the data 32: set data.size=64 or"),
        ({"in_channels": 4, "out_channels": 4}, "has in_channels=4 and the data 3: choose another checkpoint"),
        ({"sample_size": 0}, "config.json is damaged (sample_size=0): download it again"),
        ({"sample_size": "32"}, "config.json is damaged (sample_size='32'): download it again"),
        (
            {"num_train_timesteps": "1000"},
            "the scheduler's config is damaged (num_train_timesteps='1000'): download it again",
        ),
        ({"beta_end": float("nan")}, "the scheduler's config is damaged (beta_end=nan): download it again"),
        ({"sample_size": [32, 64]}, "is for images of 32x64 px, but bdiff's are square"),
        ({"sample_size": None, "block_out_channels": [8] * 7}, "set data.size to a multiple of 64"),
    ],
)
def test_a_size_that_does_not_fit_has_advice_that_can_be_followed(changed, said, tmp_path):
    (line,) = message(checkpoint(tmp_path, **changed))
    assert said in line


def test_what_a_config_leaves_out_is_what_diffusers_takes(tmp_path):
    checkpoint(tmp_path)
    write(tmp_path / "unet" / "config.json", json.dumps({"sample_size": 32}))
    write(tmp_path / "scheduler" / "scheduler_config.json", json.dumps({"num_train_timesteps": 1000}))
    assert message(tmp_path) == []
    write(tmp_path / "scheduler" / "scheduler_config.json", json.dumps({"beta_end": 0.02}))
    assert problems(str(tmp_path), UNET, NOISE | {"num_train_timesteps": 100})[0].endswith(
        "num_train_timesteps=1000, not 100: set schedule.num_train_timesteps=1000"
    )


def test_a_file_of_weights_that_is_cut_off_is_named(tmp_path):
    path = checkpoint(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (line,) = message(tmp_path)
    assert f"{path} is damaged or incomplete" in line and line.endswith("download it again")


def test_what_is_taken_for_granted_is_reported(tmp_path):
    checkpoint(tmp_path)
    assert notes("it", tmp_path, UNET) == []
    (line,) = notes("it", tmp_path, UNET | {"layers_per_block": 7})
    assert "its network is trained further, with layers_per_block=" in line
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    (tmp_path / "unet").rename(tmp_path / "unet_ema")
    write(tmp_path / "unet" / "config.json", json.dumps(UNET | {"in_channels": 1}))
    (tmp_path / "unet_ema" / "diffusion_pytorch_model.bin").unlink()
    write(tmp_path / "unet_ema" / "diffusion_pytorch_model.fp16.safetensors", "")
    lines = notes("it", tmp_path, {})
    words = ["weights in unet_ema/ are used", "the config's schedule is assumed", "which is converted to float32"]
    assert all(word in line for word, line in zip(words, lines, strict=True))


def test_all_mismatches_are_reported_together(tmp_path):
    lines = message(checkpoint(tmp_path, in_channels=1, sample_size=64, num_train_timesteps=100))
    assert [word in " ".join(lines) for word in ("data.channels=1", "data.size=64", "timesteps=100")] == [True] * 3


@pytest.mark.parametrize("pretrained", ["nowhere", "./owner/name", "/nowhere/at/all", "~/nothing", "a/b/c"])
def test_what_is_not_there(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message(pretrained) == [
        f"model.pretrained={pretrained} does not exist: give a diffusers folder or a hub id (owner/name)"
    ]


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "file.safetensors"
    write(path, "")
    assert message(path) == [f"model.pretrained={path} is a file: give the folder that contains it ({LAYOUT})"]
    path = tmp_path / "empty"
    path.mkdir()
    assert message(path) == [f"model.pretrained={path} holds no UNet config.json: {LAYOUT}"]
    checkpoint(path / "checkpoint-500")
    meant = path / "checkpoint-500"
    assert message(path) == [
        f"model.pretrained={path} holds no UNet config.json: give one of its folders, as in {meant}"
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors", "holds no diffusion_pytorch_model.safetensors in unet, only model.safetensors: rename"),
        ("diffusion_pytorch_model-00001-of-00002.bin", "is one of several shards, which are read only as safetensors"),
        ("diffusion_pytorch_model-00001-of-00002.safetensors", "with their index: save it again"),
    ],
)
def test_weights_under_names_that_are_not_read(name, said, tmp_path):
    home = checkpoint(tmp_path) / "unet"
    for path in [*home.glob("*.safetensors"), *home.glob("*.bin")]:
        path.unlink()
    write(home / name, "")
    (line,) = message(tmp_path)
    assert said in line and len(line.splitlines()) == 1


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(("text", "said"), [("{half", "is not JSON"), ("[1, 2]", "has no settings"), ("", "not JSON")])
def test_a_damaged_config_is_named(name, text, said, tmp_path):
    write(checkpoint(tmp_path) / name, text)
    (line,) = message(tmp_path)
    assert f"{tmp_path / name} " in line and said in line and len(line.splitlines()) == 1
