"""scripts/gpu.py: a miniature on the CPU, what it leaves, and how it goes on."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bdiff.store import results

ROOT = Path(__file__).parents[1]


def gpu(*words: object) -> subprocess.CompletedProcess:
    """Call the script from somewhere else, as on a machine that bdiff is not installed on."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "gpu.py", *map(str, words)], capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_miniature_does_everything_within_minutes_and_goes_on_where_it_was(tmp_path):
    state, out = tmp_path / "state", tmp_path / "out"
    words = ["--device", "cpu", "--tiny", "--state", state, "--out", out]
    began = time.monotonic()
    first = gpu("--minutes", 1, *words)
    assert first.returncode == 0, first.stdout
    assert time.monotonic() - began < 65 and "skipped, no time is left" in first.stdout
    second = gpu("--minutes", 6, *words)
    assert second.returncode == 0, second.stdout
    assert "done before" in second.stdout and "skipped" not in second.stdout and "failed" not in second.stdout
    assert time.monotonic() - began < 420  # most of it the compiler, with no kernels kept
    found = json.loads((out / "results.json").read_text())["results"]
    assert all(results.problems(one) == [] for one in found)
    by_name = {one["name"]: one["metrics"] for one in found}
    assert by_name["machine"]["matmul_bf16_flops"] > 0
    assert by_name["training"]["bdiff_over_bare"] > 0 and by_name["sampling"]["bdiff_over_pipeline_fp32"] > 0
    assert "suspect/asr" in by_name["baddiffusion"] and "audit/score" in by_name["purediffusion_backdoored"]
    assert any(name.startswith("shield/") for name in by_name["diff2"])
    files = list(out.iterdir())
    assert len(files) <= 8 and all(path.stat().st_size < 16 * 2**20 for path in files)


@pytest.mark.slow
def test_a_step_without_data_is_skipped_and_one_that_fails_is_reported(tmp_path, monkeypatch):
    """On a CPU as a card would be: `machine` asks for CUDA and fails, runs have no data."""
    state, out = tmp_path / "state", tmp_path / "out"
    (state / "done").mkdir(parents=True)
    audits = [f"{audit}_{model}" for audit in ("purediffusion", "elijah", "terd") for model in ("base", "backdoored")]
    benches = [
        "training",
        "training_small_batch",
        "sampling",
        "inversion",
        "certification",
        "fid",
        "profile",
        "memory",
    ]
    for name in (*benches, "tests", "baddiffusion", "removal", "diff2", *audits):
        (state / "done" / name).touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = gpu("--minutes", 5, "--state", state, "--out", out)
    assert done.returncode == 1
    assert "a machine machine: failed after" in done.stdout and "NVIDIA" in done.stdout
    assert "d base model base: skipped, no --data was given" in done.stdout
    assert json.loads((out / "results.json").read_text()) == {"results": []}


def test_a_wrong_command_is_reported(tmp_path):
    done = gpu("bake", "--state", tmp_path)
    assert done.returncode == 2 and "bake is not a command" in done.stderr
