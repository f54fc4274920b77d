"""Two processes make of every stage what one makes; where one of them is killed, any number goes on."""

import shutil
from pathlib import Path

import pytest
import shared_work
import torch
from pairs import together
from safetensors.torch import load_file

from bdiff.defense.shields import cohen


def files(folder: Path, pattern: str) -> dict[str, Path]:
    """The files of a run's stages, by their place below its folder."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.glob(pattern))}


def assert_same_tensors(one: Path, two: Path, pattern: str) -> None:
    """Assert that both runs have the same tensors in their files, of which there are some."""
    alone, shared = files(one, pattern), files(two, pattern)
    assert alone.keys() == shared.keys() != set()
    for name, path in alone.items():
        expected, found = load_file(path), load_file(shared[name])
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name


def tables(folder: Path) -> dict[str, list[tuple]]:
    """Cohen's tables of a run without the times, by their place."""
    return {name: [row[:5] for row in cohen.read(path)] for name, path in files(folder, "shield/*/*.tsv").items()}


@pytest.fixture(scope="module")
def alone(home) -> Path:
    """What one process certifies."""
    shared_work.certify(home / "alone")
    return home / "alone"


def test_two_processes_certify_as_one(alone, tmp_path):
    assert together(shared_work.certify, tmp_path) == [0, 0]
    assert tables(tmp_path) == tables(alone) != {}
    assert shared_work.certify(tmp_path) == shared_work.certify(alone)  # which reads the finished tables
    kept = {path.name for path in tmp_path.glob("shield/*/*")}
    assert kept == {path.name for path in alone.glob("shield/*/*")}  # no part is left


@pytest.mark.parametrize("killed", [0, 1])
def test_a_certification_goes_on_where_a_process_was_killed(alone, tmp_path, killed):
    codes = together(shared_work.certify, tmp_path / "two", killed)
    assert codes[killed] == -9 and codes[1 - killed] != 0
    parts = {path.stem: cohen.read(path) for path in (tmp_path / "two").glob("shield/*/batches/*.tsv")}
    assert len(parts[f"clean-{killed}"]) == 2 and tables(tmp_path / "two") == {}
    before = {row for rows in parts.values() for row in rows}
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    shared_work.certify(tmp_path / "one")
    assert together(shared_work.certify, tmp_path / "two") == [0, 0]
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert tables(folder) == tables(alone)
        rows = {row for path in folder.glob("shield/*/*.tsv") for row in cohen.read(path)}
        assert before <= rows  # their times too: none was made twice


def test_two_processes_purify_attack_and_check_as_one(tmp_path):
    found = shared_work.purify(tmp_path / "one")
    assert together(shared_work.purify, tmp_path / "two") == [0, 0]
    assert_same_tensors(tmp_path / "one", tmp_path / "two", "shield/*/*.safetensors")
    assert found == shared_work.purify(tmp_path / "two") and {"strip/tpr", "shield/adaptive/accuracy"} <= found.keys()


@pytest.mark.slow
def test_a_purification_goes_on_where_a_process_was_killed(tmp_path):
    shared_work.purify(tmp_path / "one")
    codes = together(shared_work.purify, tmp_path / "two", 1)
    assert codes[1] == -9 and codes[0] != 0 and files(tmp_path / "two", "shield/*/batches/*/*.safetensors")
    assert together(shared_work.purify, tmp_path / "two") == [0, 0]
    assert_same_tensors(tmp_path / "one", tmp_path / "two", "shield/*/*.safetensors")


def test_two_processes_find_the_trigger_that_one_finds(tmp_path):
    alone = shared_work.detect(tmp_path / "one")
    assert together(shared_work.detect, tmp_path / "two") == [0, 0]
    shared = shared_work.detect(tmp_path / "two")
    assert shared["evaluations"] == alone["evaluations"] and shared["made_by"]["processes"] == 2
    assert shared["curve"] == pytest.approx(alone["curve"], rel=1e-4)  # a network's batches are others
    one, two = (load_file(next(tmp_path.glob(f"{who}/audit/*/trigger.safetensors"))) for who in ("one", "two"))
    torch.testing.assert_close(two["trigger"], one["trigger"], rtol=1e-4, atol=1e-5)


def test_two_processes_measure_the_distance_that_one_measures(tmp_path):
    alone = shared_work.distance(tmp_path / "one")
    assert together(shared_work.distance, tmp_path / "two") == [0, 0]
    shared = shared_work.distance(tmp_path / "two")
    assert shared == alone and {"suspect/fid_classifier", "suspect/kid_classifier", "suspect/mse"} <= alone.keys()
    assert_same_tensors(tmp_path / "one", tmp_path / "two", "activations/*/*.safetensors")
    reference = [next(tmp_path.glob(f"{who}/reference/*/reference.npz")).read_bytes() for who in ("one", "two")]
    assert reference[0] == reference[1]
