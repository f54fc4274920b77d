"""`bdiff attacks` over runs written by hand: what each sampler was expected to do, what came out, and the samples."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_runs import settings, write_run
from PIL import Image

from bdiff.cli import main as cli
from bdiff.report import attack_figure, figures
from bdiff.report.attacks import attempts
from bdiff.report.runs import find

#: (attack, sampler) -> whether it was to open, and the ASR and false_trigger of each seed; None: a run of before
RUNS = {
    ("none", "ddpm"): (False, [(0.0, 0.004)]),
    ("none", "ddim"): (False, [(0.0, 0.0)]),
    ("baddiffusion", "ddpm"): (True, [(0.9, 0.05), (1.0, 0.03)]),
    ("baddiffusion", "ddim"): (False, [(0.0, 0.04)]),
    ("other", "ddpm"): (False, [(0.6, 0.0)]),  # unlike what was expected
    ("other", "ddim"): (None, [(0.75, None)]),
}
STEPS = {"ddpm": 100, "ddim": 50}


def colour(attack: str, kind: str) -> torch.Tensor:
    """Sixteen samples, uint8 (16,3,8,8): an attack's triggered ones of one shade, its clean ones of another."""
    shade = 20 + 60 * ["none", "baddiffusion", "other"].index(attack) + 30 * (kind == "clean")
    return torch.full((16, 3, 8, 8), shade, dtype=torch.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The runs of `RUNS` below runs/, with sheets of their samples; a failed one, and one without triggered samples."""
    monkeypatch.chdir(tmp_path)
    for (attack, sampler), (expected, seeds) in RUNS.items():
        for seed, (asr, leak) in enumerate(seeds):
            metrics = {"asr": asr, "fid_classifier": 1.5}
            protocol = {"asr": {"threshold": 0.05}}
            if leak is not None:
                metrics |= {"false_trigger": leak}
                protocol["asr"]["expected"] = expected
            config = settings(seed=seed, sampler={"ode": sampler == "ddim"}, attack={"name": attack})
            config["sample"] |= {"steps": STEPS[sampler]}
            folder = tmp_path / "runs" / f"{attack}-{sampler}-{seed}"
            typed = (f"attack={attack}", f"sampler={sampler}")
            choices = {"attack": attack, "sampler": sampler}
            write_run(folder, metrics, config, typed=typed, choices=choices, protocol=protocol)
            for kind in ("clean", "triggered"):
                figures.sheet(folder / "figures" / f"{kind}.png", colour(attack, kind))
    shield = settings(sampler={"ode": False}, attack={"name": "diff2"})
    write_run(tmp_path / "runs" / "shield", {"fid_classifier": 1.0}, shield, choices={"attack": "diff2"})
    broken = settings(sampler={"ode": True}, attack={"name": "baddiffusion"})
    choices = {"attack": "baddiffusion", "sampler": "unipc"}
    write_run(
        tmp_path / "runs" / "broken",
        {},
        broken | {"sample": {"steps": 20}},
        typed=("attack=baddiffusion", "sampler=unipc"),
        choices=choices,
        status="failed",
        error="out of memory",
    )
    return tmp_path


def test_a_row_says_what_was_expected_and_whether_it_came_true(place, capsys):
    assert cli.command(["attacks", "runs", "--format", "csv"]) == 0
    out, notes = capsys.readouterr()
    rows = {(row["attack"], row["sampler"]): row for row in csv.DictReader(io.StringIO(out))}
    ode = ["ddim", "unipc"]
    assert list(rows) == [("none", "ddpm"), ("none", "ddim"), ("baddiffusion", "ddpm"),
                          *(("baddiffusion", name) for name in ode), ("other", "ddpm"), ("other", "ddim")]  # fmt: skip
    said = {place: [row[head] for head in ("steps", "expected", "as expected")] for place, row in rows.items()}
    assert said == {
        ("none", "ddpm"): ["100", "does not", "yes"], ("none", "ddim"): ["50", "does not", "yes"],
        ("baddiffusion", "ddpm"): ["100", "opens", "yes"], ("baddiffusion", "ddim"): ["50", "does not", "yes"],
        ("baddiffusion", "unipc"): ["20", "-", "-"],
        ("other", "ddpm"): ["100", "does not", "NO"], ("other", "ddim"): ["50", "-", "-"],
    }  # fmt: skip
    bad = rows["baddiffusion", "ddpm"]
    assert [float(bad[head]) for head in ("ASR mean", "ASR n", "false_trigger mean")] == pytest.approx([0.95, 2, 0.04])
    assert float(bad["ASR std"]) == pytest.approx(0.1 / 2**0.5)
    assert rows["other", "ddim"]["false_trigger mean"] == "-" and rows["other", "ddim"]["ASR mean"] == "0.75"
    assert rows["baddiffusion", "unipc"]["ASR mean"] == "failed" and "out of memory" in notes
    assert "as expected: 4 of 5" in notes and "protocols differ" not in notes


@pytest.mark.parametrize("form", ["rich", "md", "latex"])
def test_the_table_in_other_formats(form, place, capsys):
    assert cli.command(["attacks", "runs", "--format", form, "--out", "new/table"]) == 0
    text = Path("new/table").read_text()
    assert all(word in text for word in ("attacks by samplers", "baddiffusion", "0.950 ± 0.071" if form != "latex" else
                                         "0.950 $\\pm$ 0.071", "does not", "NO", "as expected: 4 of 5"))  # fmt: skip


def test_the_figure_has_the_samples_of_every_cell_in_its_place(place, monkeypatch):
    drawn = {}

    class Watched(attack_figure.Figure):
        def savefig(self, *args, **options):
            drawn["figure"] = self
            super().savefig(*args, **options)

    monkeypatch.setattr(attack_figure, "Figure", Watched)
    assert cli.command(["attacks", "runs", "--figure", "new/samples.png"]) == 0
    pixels = np.asarray(Image.open("new/samples.png").convert("RGB"))
    assert pixels.shape[1] > 500 and pixels.std() > 10
    grid = np.array(drawn["figure"].axes).reshape(3, 4)
    assert [axes.get_title() for axes in grid[0]] == ["clean, ddpm", "ddpm", "ddim", "unipc"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["none", "baddiffusion", "other"]
    for row, attack in zip(grid, ("none", "baddiffusion", "other"), strict=True):
        for axes, kind in zip(row[:3], ("clean", "triggered", "triggered"), strict=True):
            shown = axes.images[0].get_array()
            shades = set(np.unique(shown)) - {255}  # the gaps
            assert shades == {int(colour(attack, kind)[0, 0, 0, 0])}
    assert not any(axes.images for axes in grid[:, 3])
    assert grid[0, 3].get_xlabel() == "not run" and grid[1, 0].get_xlabel() == "false_trigger 0.040"
    assert grid[1, 1].get_xlabel() == "ASR 0.950\nopens, as expected"
    surprise = grid[2, 1]
    assert surprise.get_xlabel() == "ASR 0.600\nexpected not to open"
    assert surprise.xaxis.label.get_color() != grid[1, 1].xaxis.label.get_color()


def test_tiles_are_the_samples_pixel_for_pixel(tmp_path):
    images = torch.randint(256, (10, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    figures.sheet(tmp_path / "sheet.png", images)
    found = attack_figure.tiles(tmp_path / "sheet.png", 9)  # the ninth is in the second row
    assert len(found) == 9
    for tile, image in zip(found, images, strict=False):
        factor = len(tile) // 16
        assert np.array_equal(tile[::factor, ::factor, 0], image[0].numpy())


def test_attacks_are_told_apart_by_what_they_differ_in(place):
    for mode in ("d2i", "d2d"):
        config = settings(sampler={"ode": False}, attack={"name": "trojan", "mode": mode})
        more = {"typed": ("attack=trojan", f"attack.mode={mode}"), "choices": {"attack": "trojan", "sampler": "ddpm"}}
        write_run(place / "runs" / mode, {"asr": 0.5}, config, **more)
    keys, tried = attempts([run for run in find([place / "runs"]) if "suspect/asr" in run.metrics])
    assert keys == ["attack", "attack.mode"]
    assert {one.attack for one in tried} == {("none", "-"), ("baddiffusion", "-"), ("other", "-"), ("trojan", "d2d"),
                                             ("trojan", "d2i")}  # fmt: skip


def test_where_the_target_is_a_class_the_classifier_says_what_succeeded(place, capsys):
    config = settings(sampler={"ode": False}, attack={"name": "trojan"})
    more = {"typed": ("attack=trojan",), "choices": {"attack": "trojan", "sampler": "ddpm"}}
    protocol = {"asr": {"absent": "the target is a class"}, "class_asr": {"expected": True}}
    write_run(place / "class" / "a", {"class_asr": 0.875}, config, protocol=protocol, **more)
    assert cli.command(["attacks", "class", "runs/none-ddpm-0", "--format", "csv"]) == 0
    out, notes = capsys.readouterr()
    row = next(row for row in csv.DictReader(io.StringIO(out)) if row["attack"] == "trojan")
    assert [row[head] for head in ("ASR mean", "expected", "as expected")] == ["0.875", "opens", "yes"]
    assert "of a class (class_asr): trojan" in notes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("runs/shield", "no run with triggered samples is done below runs/shield"),
        ("runs/broken", "(1 did not finish)"),
        ("runs --rows atack", "atack is set in no run; did you mean attack?"),
        ("runs --figure table.txt", "table.txt does not end in .png, .pdf, .svg"),
    ],
)
def test_wrong_words_are_reported_in_a_line(line, message, place, capsys):
    assert cli.command(["attacks", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1 and not out
