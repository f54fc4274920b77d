"""What is said of a checkpoint folder from its json files alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bdiff.model.check import LAYOUT, problems

UNET = {"in_channels": 3, "out_channels": 3, "sample_size": 32, "layers_per_block": 2}
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def checkpoint(folder: Path, nested: bool = True, **changed) -> Path:
    """Write the two configs of a checkpoint that fits `UNET` and `NOISE` but for what is `changed`."""
    for name, config in (("unet/config.json", UNET), ("scheduler/scheduler_config.json", NOISE)):
        content = config | {key: value for key, value in changed.items() if key in config}
        write(folder / (name if nested else Path(name).name), json.dumps({**content, "_class_name": "of diffusers"}))
    return folder


def told(pretrained: Path | str | None) -> list[str]:
    return problems(None if pretrained is None else str(pretrained), UNET, NOISE)


@pytest.mark.parametrize("pretrained", [None, "google/ddpm-cifar10-32", "someone/some.model-v1"])
def test_hub_ids_are_not_looked_up(pretrained):
    assert told(pretrained) == []


@pytest.mark.parametrize("nested", [True, False])
def test_a_fitting_checkpoint_has_no_problems(nested, tmp_path, monkeypatch):
    checkpoint(tmp_path / "here" / "there", nested)
    assert told(tmp_path / "here" / "there") == []
    monkeypatch.chdir(tmp_path)
    assert told("here/there") == []  # a local folder, though it reads like a hub id
    monkeypatch.setenv("HOME", str(tmp_path))
    assert told("~/here/there") == []


def test_a_checkpoint_without_a_schedule_is_taken_as_it_is(tmp_path):
    checkpoint(tmp_path, beta_end=0.5)
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    assert told(tmp_path) == []


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
    (line,) = told(checkpoint(tmp_path, **changed))
    assert line.startswith(f"model.pretrained={tmp_path} ") and said in line


def test_all_misfits_are_told_together(tmp_path):
    lines = told(checkpoint(tmp_path, in_channels=1, sample_size=64, num_train_timesteps=100))
    assert [word in " ".join(lines) for word in ("data.channels=1", "data.size=64", "timesteps=100")] == [True] * 3


@pytest.mark.parametrize("pretrained", ["nowhere", "./owner/name", "/nowhere/at/all", "~/nothing", "a/b/c"])
def test_what_is_not_there(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told(pretrained) == [
        f"model.pretrained={pretrained} does not exist: give a diffusers folder or a hub id (owner/name)"
    ]


def test_what_is_no_checkpoint(tmp_path):
    write(tmp_path / "file", "")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "file", tmp_path / "empty"):
        assert told(path) == [f"model.pretrained={path} holds no UNet config.json: {LAYOUT}"]


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(("text", "said"), [("{half", "is no JSON"), ("[1, 2]", "holds no settings"), ("", "no JSON")])
def test_a_damaged_config_is_named(name, text, said, tmp_path):
    write(checkpoint(tmp_path) / name, text)
    (line,) = told(tmp_path)
    assert f"{tmp_path / name} " in line and said in line and len(line.splitlines()) == 1


def test_no_torch_is_needed():
    code = "import sys, bdiff.model.check; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
