"""Checkpoints as other tools leave them: taken with the right weights, or refused before anything is trained."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file

from bdiff.cli import main as cli
from bdiff.common.errors import RequestError
from bdiff.model import checkpoint

NAME = "diffusion_pytorch_model"


def same(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    """Whether two UNets have the same weights."""
    theirs = expected.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in found.state_dict().items())


def other() -> torch.nn.Module:
    """A UNet with other weights than `toys.unet`."""
    unet = toys.unet()
    with torch.no_grad():
        for weight in unet.parameters():
            weight += 1
    return unet


def folder(path: Path, unet: torch.nn.Module | None = None, schedule: bool = True) -> Path:
    """Write a diffusers folder."""
    (unet or toys.unet()).save_pretrained(path / "unet")
    if schedule:
        (path / "scheduler").mkdir()
        (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(toys.schedule().config))
    return path


def built(path: Path, **changed) -> torch.nn.Module:
    """What training would start from."""
    unet = {"in_channels": 1, "out_channels": 1, "sample_size": toys.SIZE} | changed
    checkpoint.examine(str(path), unet, toys.schedule())
    return checkpoint.build(unet, str(path))


def test_averaged_weights_come_before_the_others_and_it_is_said(tmp_path, caplog):
    folder(tmp_path, other())
    toys.unet().save_pretrained(tmp_path / "unet_ema")
    config = json.loads((tmp_path / "unet_ema" / "config.json").read_text())  # as diffusers' EMAModel leaves it
    (tmp_path / "unet_ema" / "config.json").write_text(json.dumps(config | {"decay": 0.9999, "optimization_step": 5}))
    assert same(built(tmp_path), toys.unet())
    assert "the averaged weights in unet_ema/ are used" in caplog.text


def test_a_folder_without_a_schedule_is_warned_of(tmp_path, caplog):
    assert same(built(folder(tmp_path, schedule=False)), toys.unet())
    assert "the config's schedule is assumed" in caplog.text


@pytest.mark.parametrize("end", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "model."])
def test_a_wrappers_prefix_is_taken_off(prefix, end, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    home = folder(tmp_path) / "unet"
    weights = {prefix + name: weight for name, weight in load_file(home / f"{NAME}.safetensors").items()}
    (home / f"{NAME}.safetensors").unlink()
    (save_file if end == "safetensors" else torch.save)(weights, home / f"{NAME}.{end}")
    assert same(built(tmp_path), toys.unet())
    assert "names read without" in caplog.text


@pytest.mark.parametrize("keys", [["state_dict"], ["model"], ["ema"], ["checkpoint", "unet"], ["state_dict", "model"]])
def test_an_outer_key_is_taken_off(keys, tmp_path):
    home = folder(tmp_path) / "unet"
    held = load_file(home / f"{NAME}.safetensors")
    for key in reversed(keys):
        held = {key: held, "epoch": 3}
    (home / f"{NAME}.safetensors").unlink()
    torch.save(held, home / f"{NAME}.bin")
    if keys[0] == "checkpoint":  # a key that nobody knows
        with pytest.raises(RequestError):
            built(tmp_path)
    else:
        assert same(built(tmp_path), toys.unet())


def test_averaged_weights_in_a_file_come_first_but_the_averagers_own_state_is_none(tmp_path):
    home = folder(tmp_path) / "unet"
    (home / f"{NAME}.safetensors").unlink()
    averaged = {"ema": toys.unet().state_dict(), "model": other().state_dict()}
    torch.save(averaged, home / f"{NAME}.bin")
    assert same(built(tmp_path), toys.unet())
    averager = {"decay": 0.9, "shadow_params": [*toys.unet().parameters()]}
    torch.save({"ema": averager, "model": toys.unet().state_dict()}, home / f"{NAME}.bin")
    assert same(built(tmp_path), toys.unet())


@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_half_the_weights_are_reported_with_the_names_that_are_missing(end, tmp_path):
    home = folder(tmp_path) / "unet"
    weights = load_file(home / f"{NAME}.safetensors")
    kept = dict(sorted(weights.items())[: len(weights) // 2])
    (home / f"{NAME}.safetensors").unlink()
    (save_file if end == "safetensors" else torch.save)(kept, home / f"{NAME}.{end}")
    missing = sorted(set(weights) - set(kept))
    with pytest.raises(RequestError, match=rf"is incomplete: {len(missing)} weights are missing \({missing[0]}, "):
        built(tmp_path)


@pytest.mark.parametrize("end", ["safetensors", "bin"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_half_a_file_is_reported_in_a_line(end, part, tmp_path):
    home = folder(tmp_path) / "unet"
    path = home / f"{NAME}.{end}"
    if end == "bin":
        torch.save(load_file(home / f"{NAME}.safetensors"), path)
        (home / f"{NAME}.safetensors").unlink()
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(RequestError) as caught:
        built(tmp_path)
    assert len(caught.value.problems) == 1 and "meta tensor" not in str(caught.value)


def test_weights_of_another_network_are_reported(tmp_path):
    home = folder(tmp_path) / "unet"
    save_file({"some.weight": torch.zeros(3)}, home / f"{NAME}.safetensors")
    with pytest.raises(RequestError, match="weights are missing"):
        built(tmp_path)
    shutil.rmtree(home)
    wide = toys.unet()
    wide.save_pretrained(home)
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps(config | {"block_out_channels": [8, 16]}))
    with pytest.raises(RequestError):
        built(tmp_path)


@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_a_variant_alone_is_taken_as_float32(end, tmp_path, caplog):
    home = folder(tmp_path) / "unet"
    half = {name: weight.half() for name, weight in load_file(home / f"{NAME}.safetensors").items()}
    (home / f"{NAME}.safetensors").unlink()
    (save_file if end == "safetensors" else torch.save)(half, home / f"{NAME}.fp16.{end}")
    unet = built(tmp_path)
    assert f"there is only {NAME}.fp16.{end}, which is converted to float32" in caplog.text
    assert all(torch.equal(weight, half[name].float()) for name, weight in unet.state_dict().items())
    assert {weight.dtype for weight in unet.state_dict().values()} == {torch.float32}


def test_a_variant_beside_the_whole_weights_is_left(tmp_path, caplog):
    home = folder(tmp_path) / "unet"
    save_file({name: weight.half() for name, weight in other().state_dict().items()}, home / f"{NAME}.fp16.safetensors")
    assert same(built(tmp_path), toys.unet())
    assert "fp16" not in caplog.text


@pytest.mark.parametrize("size", [[toys.SIZE, toys.SIZE], None])
def test_a_size_in_other_words_is_written_down_as_a_number(size, tmp_path):
    unet = toys.unet()
    unet.register_to_config(sample_size=size)
    found = built(folder(tmp_path, unet))
    assert same(found, unet) and found.config["sample_size"] == toys.SIZE


def test_no_weights_at_all(tmp_path):
    home = folder(tmp_path) / "unet"
    (home / f"{NAME}.safetensors").unlink()
    with pytest.raises(RequestError, match="holds no diffusion_pytorch_model"):
        built(tmp_path)


def test_a_run_is_reported_before_anything_is_made(tmp_path, capsys):
    unet = toys.unet()
    unet.register_to_config(sample_size=16)
    home = folder(tmp_path / "given", unet, schedule=False)
    save_file({"conv_in.bias": torch.zeros(8)}, home / "unet" / f"{NAME}.safetensors")
    words = [f"model.pretrained={home}", f"paths.outputs={tmp_path}/out", f"paths.cache={tmp_path}/cache"]
    assert cli.command(["run", *words, f"hydra.run.dir={tmp_path}/run", "runtime.device=cpu"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("bdiff: "))
    assert "weights are missing" in line
    assert not (tmp_path / "out" / "train").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    unet = toys.unet()
    with torch.no_grad():
        unet.conv_in.bias[0] = value
    with pytest.raises(RequestError, match="its weights are not finite"):
        built(folder(tmp_path, unet))


def test_diffusers_says_nothing_beside_our_line(tmp_path, capfd):
    save_file({"conv_in.bias": torch.zeros(8)}, folder(tmp_path) / "unet" / f"{NAME}.safetensors")
    with pytest.raises(RequestError, match="weights are missing"):
        built(tmp_path)
    assert "newly initialized" not in capfd.readouterr().err
