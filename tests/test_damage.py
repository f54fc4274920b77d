"""A run over damaged files of earlier runs: damaged files are rebuilt, to the same numbers, or reported by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import carry_out
from tiny import TINY

STAGES = {
    "train": "model/unet/diffusion_pytorch_model.safetensors",
    "sample": "shards/00000008.safetensors",
    "classifier": "model.safetensors",
    "reference": "reference.npz",
    "measure": "manifest.json",
}


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict]:
    """A tiny run that nobody disturbed."""
    home = tmp_path_factory.mktemp("whole")
    code, record = carry_out(home, "first", *TINY)
    assert code == 0
    return home, record


@pytest.mark.parametrize("damage", [half, *(pytest.param(one, marks=pytest.mark.slow) for one in (zeros, Path.unlink))])
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_damaged_is_made_again_and_nothing_else(stage, damage, whole, capfd):
    home, record = whole
    path = home / "outputs" / stage / record["keys"][stage] / STAGES[stage]
    kept = path.read_bytes()
    damage(path)
    code, again = carry_out(home, "again", *TINY)
    assert code == 0
    assert again["metrics"] == record["metrics"]
    assert {*again["keys"]} - {*again["reused"]} == {stage}
    if stage != "measure":  # whose manifest has the time in it
        assert path.read_bytes() == kept
        assert STAGES[stage] in capfd.readouterr().err


def test_a_table_leaves_damaged_runs_out_and_says_so(whole, tmp_path):
    home, _ = whole
    for name in ("whole", "half", "zeros", "config"):
        shutil.copytree(home / "first", tmp_path / name)
    half(tmp_path / "half" / "metrics.json")
    zeros(tmp_path / "zeros" / "metrics.json")
    (tmp_path / "config" / "config.yaml").write_text("a: [b")
    (tmp_path / "jobs.json").write_text("[half")
    words = [sys.executable, "-m", "bdiff", "table", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"COLUMNS": "300"})
    assert done.returncode == 0 and "Traceback" not in done.stderr
    for name in ("half", "zeros", "config"):
        assert f"{tmp_path / name} is skipped" in done.stderr
    assert f"{tmp_path / 'jobs.json'} is damaged" in done.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metrics": {"suspect/asr": "lots"}}, "suspect/asr in metrics.json is 'lots', not a finite number"),
        ({"metrics": {"suspect/mse": None}}, "suspect/mse in metrics.json is None"),
        ({"metrics": {"suspect/mse": [0.5]}}, "suspect/mse in metrics.json is [0.5]"),
        ({"metrics": {"suspect/mse": float("nan")}}, "suspect/mse in metrics.json is nan"),
        ({"metrics": {"suspect/asr": 7.5}}, "suspect/asr in metrics.json is 7.5, outside of 0 to 1"),
        ({"metrics": []}, "metrics in metrics.json is damaged"),
        ({"choices": None}, "choices in metrics.json is damaged"),
        (None, "config.yaml has no config"),
    ],
)
def test_a_table_leaves_a_run_out_whose_numbers_cannot_be(changed, message, whole, tmp_path):
    home, record = whole
    for name in ("good", "bad"):
        shutil.copytree(home / "first", tmp_path / name)
    unlike = {"metrics": {"suspect/ssim": -0.002}}  # images may be less alike than by chance
    (tmp_path / "good" / "metrics.json").write_text(json.dumps(record | unlike))
    if changed is None:
        (tmp_path / "bad" / "config.yaml").write_bytes(b"")
    else:
        (tmp_path / "bad" / "metrics.json").write_text(json.dumps(record | changed))
    words = [sys.executable, "-m", "bdiff", "table", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"COLUMNS": "300"})
    assert (
        done.returncode == 0 and f"{tmp_path / 'bad'} is skipped: {message}" in done.stderr and "1 run" in done.stdout
    )


@pytest.mark.parametrize("content", [b"no database", bytes(4096)])
def test_a_sweep_over_a_damaged_ledger_starts_nothing(content, tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "ledger.sqlite").write_bytes(content)
    words = [sys.executable, "-m", "bdiff", "run", "-m", "seed=1,2", *TINY, f"paths.outputs={tmp_path}/outputs"]
    done = subprocess.run([*words, f"hydra.sweep.dir={tmp_path}/sweep"], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "ledger.sqlite cannot be used (file is not a database)" in line
    assert not (tmp_path / "outputs" / "train").exists() and not (tmp_path / "sweep").exists()
