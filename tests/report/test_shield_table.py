"""The tables of a single run with a shield against metrics by hand, and its picture."""

from pathlib import Path

import numpy as np
import torch
from fake_runs import settings, write_run
from fake_shields import write_shielded
from PIL import Image

from bdiff.pipeline.result import Column
from bdiff.report.runs import read
from bdiff.report.shield_figure import shield
from bdiff.report.shields import shields

PURIFIED = {
    "suspect/asr": 0.9,
    "no_shield/clean/accuracy": 0.98,
    "no_shield/triggered/accuracy": 0.95,
    "no_shield/asr": 0.03,
    "shield/clean/accuracy": 0.96,
    "shield/triggered/accuracy": 0.03,
    "shield/adaptive/accuracy": 0.5,
}
CERTIFIED = {
    "certified/clean/acc@0": 0.9,
    "certified/clean/acc@0.25": 0.7,
    "certified/clean/acr": 0.31,
    "certified_no_shield/triggered/acc@0": 0.1,
    "certified_no_shield/triggered/acc@0.25": 0.05,
    "certified_no_shield/triggered/acr": 0.01,
}


def cells(folder: Path) -> list[list[list[str]]]:
    """The tables of the run in a folder, each its heads and rows as text."""
    tables = shields([read(folder)], [])
    return [[table.heads, *([cell.text for cell in row] for row in table.rows)] for table in tables]


def test_a_shield_is_a_row_per_model_and_a_column_per_kind_of_input(tmp_path):
    assert cells(write_shielded(tmp_path / "run", PURIFIED)) == [[
        ["shield", "clean", "triggered", "adaptive", "ASR"],
        ["no shield", "0.980", "0.950", "-", "0.030"],
        ["shield with the suspect", "0.960", "0.030", "0.500", "-"],
    ]]  # fmt: skip


def test_certified_accuracies_stand_under_their_radii(tmp_path):
    assert cells(write_shielded(tmp_path / "run", CERTIFIED, "certification")) == [[
        ["shield", "input", "acc@0", "acc@0.25", "ACR"],
        ["no shield", "triggered", "0.100", "0.050", "0.010"],
        ["shield with the suspect", "clean", "0.900", "0.700", "0.310"],
    ]]  # fmt: skip


def test_runs_without_a_shield_have_no_table(tmp_path):
    assert cells(write_run(tmp_path / "run", {"asr": 0.9}, settings(), choices={"defense": "none"})) == []


def test_the_figure_has_a_row_per_image_and_marks_wrong_labels(tmp_path):
    images = torch.full((2, 1, 8, 8), 128, dtype=torch.uint8)

    def colours(labels: list[str]) -> set[tuple[int, ...]]:
        path = tmp_path / f"{'-'.join(labels)}.png"
        shield(path, "run", ["3", "8"], [Column("input", images, labels), Column("trigger x 10", images)])
        return set(map(tuple, np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).tolist()))

    orange = (213, 94, 0)
    assert orange in colours(["3", "5"])
    assert orange not in colours(["3", "8"])
