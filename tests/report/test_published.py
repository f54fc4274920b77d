"""Ours beside the published figures: when the two compare, and what is said when they do not."""

from pathlib import Path
from typing import Any

import pytest
from fake_runs import write_run
from omegaconf import OmegaConf

from bdiff.pictures.authors import FILES, ORIGINALS
from bdiff.report.published import Row, beside, figure, verdict
from bdiff.report.runs import Run, flat, read

ROWS = Path(__file__).parents[2] / "conf" / "experiment" / "trojdiff"
SETTINGS = {"seed": 0, "name": "n", "sample": {"count": 2048, "batch_size": 256}, "model": {"pretrained": "google"}}
#: the end of every verdict on samples of ddpm
UNSAID = "; DDPM variance unknown (ours fixed_large)"
CHOICES = {"data": "cifar10", "metric/fid": "inception", "classifier": "small_cnn", "experiment": "paper/row"}
#: what a request for the row is set to
ROW: dict[str, Any] = {"seed": 0, "name": "n", "sample.count": 2048, "sample.batch_size": 256,
                       "model.pretrained": "google", **{f"a.{key}": 0 for key in "abcde"}, **CHOICES}  # fmt: skip
PUBLISHED = {
    "source": "Paper, arXiv 1", "where": "Table 1", "provenance": "authors' artefact", "pair": "box14->hat",
    "sampler": "ddpm-1000", "fid_samples": 2048, "metrics": {"suspect/mse": 1.19e-05, "suspect/fid": 21.1},
}  # fmt: skip
FID = {"fid": {"sample_count": 2048, "marks": []}}


def run(folder: Path, typed: str = "", metrics: tuple[str, ...] = ("mse", "fid"), protocol=FID, **more) -> Run:
    """A run of the row, with the settings `typed` beside it."""
    config: dict[str, Any] = {
        **SETTINGS,
        "a": dict.fromkeys("abcde", 0),
        "sample": dict(SETTINGS["sample"]),
        "model": dict(SETTINGS["model"]),
        "sampler.scheduler": {"variance_type": "fixed_large"},
    }  # type: ignore[call-overload]
    choices = dict(CHOICES)
    for word in typed.split():
        key, value = word.split("=")
        if key in choices:
            choices[key] = value
        else:
            part, _, name = key.rpartition(".")
            (config[part] if part else config)[name] = int(value) if value.isdigit() else value
    values = dict.fromkeys(metrics, 0.5)
    write_run(folder, values, config, typed=(*typed.split(), "seed=0"), choices=choices, protocol=protocol, **more)
    return read(folder)


VERDICTS = [
    ({}, {}, "yes"),
    ({"typed": "seed=7 sample.batch_size=64 name=other"}, {}, "yes"),
    ({"typed": "data=digits sample.count=64"}, {}, "no: data=digits, sample.count=64"),
    ({"typed": "sample.count=64 data=digits"}, {}, "no: data=digits, sample.count=64"),
    ({"typed": "a.a=1 a.b=1 a.c=1 a.d=1 a.e=1"}, {}, "no: a.a=1, a.b=1, a.c=1, 2 more"),
    ({"typed": "model.pretrained=here"}, {}, "no: model.pretrained=here"),
    ({}, {"provenance": "listing page"}, "no: weak source"),
    ({}, {"pair": "?->hat"}, "no: published trigger unknown"),
    ({}, {"pair": "?"}, "no: published trigger unknown"),
    ({"typed": "classifier=resnet18"}, {}, "yes"),
    ({"typed": "classifier=resnet18"}, {"metrics": {"shield/clean/accuracy": 0.7}}, "no: classifier=resnet18"),
    ({"typed": "classifier=resnet18"}, {"metrics": {"certified/clean/acr": 0.7}}, "no: classifier=resnet18"),
    ({"typed": "classifier=resnet18"}, {"metrics": {"no_shield/asr": 0.7}}, "no: classifier=resnet18"),
    ({"typed": "classifier=resnet18"}, {"metrics": {"suspect/class_asr": 0.7}}, "no: classifier=resnet18"),
    ({}, {"differs": ["an A for a 7"]}, "no: an A for a 7"),
    (
        {"typed": "metric/fid=classifier", "metrics": ("mse", "fid_classifier")},
        {},
        "all but FID: metric/fid=classifier, fid_classifier is another measure",
    ),
    ({"metrics": ("mse",)}, {}, "all but FID: ours is missing"),
    ({"metrics": ("mse",)}, {"metrics": {"suspect/mse": 0.1}}, "yes"),
    ({}, {"fid_samples": None}, "all but FID: published sample count unknown"),
    ({}, {"fid_samples": 10000}, "all but FID: over 2048 samples, not 10000"),
    ({"protocol": {"fid": {"sample_count": 2048, "marks": ["cut short"]}}}, {}, "all but FID: cut short"),
    ({"status": "failed", "metrics": ()}, {}, "failed"),
]


@pytest.mark.parametrize(("ours", "theirs", "message"), VERDICTS)
def test_verdict(ours, theirs, message, tmp_path):
    own = run(tmp_path / "run", **ours)
    sampled = own.done and any(name.startswith("suspect/") for name in (PUBLISHED | theirs)["metrics"])
    assert verdict(Row("row", PUBLISHED | theirs, [own], ROW), [own]) == message + UNSAID * sampled


def test_a_row_that_changed_after_its_run_is_reported(tmp_path):
    own = run(tmp_path / "run")
    row = Row("row", PUBLISHED, [own], ROW | {"model.pretrained": "elsewhere"})
    assert verdict(row, [own]) == "no: model.pretrained=google" + UNSAID
    assert (
        verdict(Row("row", PUBLISHED, [own], ROW | {"new.key": 1}), [own]) == "yes" + UNSAID
    )  # the run knew no such key


def test_a_row_without_runs_says_so_and_keeps_its_doubts():
    assert verdict(Row("row", PUBLISHED, [], {}), []) == "not run"
    weak = PUBLISHED | {"pair": "?->hat", "provenance": "listing page"}
    assert verdict(Row("row", weak, [], {}), []) == "not run, published trigger unknown, weak source"


def test_a_row_without_figures_has_none_to_compare_with_and_no_weak_source(tmp_path):
    bare = PUBLISHED | {"provenance": "none", "metrics": {}, "where": "nowhere"}
    own = run(tmp_path / "run")
    assert verdict(Row("row", bare, [own], ROW), [own]) == "no number is published"
    sheet = beside([Row("one", bare, [], {})], "title", None)
    assert "[1] Paper, arXiv 1: nowhere" in sheet.notes
    assert not any("weak" in note for note in sheet.notes)


def test_figures_are_shown_as_read_and_weak_ones_marked():
    assert figure(PUBLISHED, "suspect/mse").text == "1.19e-05"
    assert figure(PUBLISHED, "suspect/fid").text == "21.1"
    assert figure(PUBLISHED | {"provenance": "third-party notes, unchecked"}, "suspect/fid").text == "21.1?"
    assert figure(PUBLISHED, "suspect/ssim").text == "-"


def test_ours_stand_beside_the_published_and_variants_get_a_line_each(tmp_path):
    runs = [run(tmp_path / "a", metrics=("mse", "fid", "asr")), run(tmp_path / "b", "sample.count=64", protocol={})]
    weak = PUBLISHED | {"provenance": "listing page", "where": None}
    sheet = beside([Row("one", PUBLISHED, runs, ROW), Row("two", weak, [], {})], "title", None)
    assert sheet.heads == ["row", "asr ours", "mse ours", "mse published", "fid ours", "fid published", "source",
                           "comparable"]  # fmt: skip
    assert [[cell.text for cell in row] for row in sheet.rows] == [
        ["one", "0.500", "0.5", "1.19e-05", "0.50", "21.1", "[1]", "yes" + UNSAID],
        ["one", "-", "0.5", "1.19e-05", "0.50", "21.1", "[1]", "no: sample.count=64" + UNSAID],
        ["two", "not run", "not run", "1.19e-05?", "not run", "21.1?", "[2]",
         "not run, weak source"],
    ]  # fmt: skip
    assert sheet.notes[:2] == [
        "[1] Paper, arXiv 1: Table 1 (authors' artefact)",
        "[2] Paper, arXiv 1 (weak: listing page)",
    ]
    assert sheet.notes[2].startswith("?") and sheet.notes[3] == "2 runs"


def test_the_variance_of_ddpm_is_named_and_never_a_departure(tmp_path):
    own = run(tmp_path / "run", "sampler.scheduler.variance_type=fixed_small")
    row = ROW | {"sampler.scheduler.variance_type": "fixed_large"}
    assert verdict(Row("row", PUBLISHED, [own], row), [own]) == "yes; DDPM variance unknown (ours fixed_small)"
    assert verdict(Row("row", PUBLISHED | {"sampler": "ddim-50"}, [own], row), [own]) == "yes"


DIGESTS = {file: digest for digest, file in FILES.items()}
SIGN, HAT, GLASSES, CAT = (DIGESTS[ORIGINALS[name]] for name in ("stop_sign", "hat", "glasses", "cat"))
WHITE_SIGN = DIGESTS["BadDiffusion/static/stop_sign_bg_w.jpg"]
KITTY, MICKEY = (f"TrojDiff/images/{name}.png" for name in ("hello_kitty", "mickey"))
#: what a run with a trigger or a target from a file has
FILE = {"path": "a.png", "reading": "authors"}
PLACED = {**FILE, "side": 14, "place": "corner", "unit": None}


@pytest.mark.parametrize(
    ("size", "trigger", "target", "files", "message"),
    [
        (32, PLACED, None, {"trigger": SIGN}, "yes"),
        (32, PLACED | {"unit": "image"}, None, {"trigger": SIGN}, "yes"),  # the same pixels at 32 px
        (256, PLACED | {"side": 112}, None, {"trigger": SIGN},
         "no: trigger is 112 px wide, 2 px from the corner, not 112 px wide, 16 px from the corner"),
        (32, PLACED | {"side": 11}, None, {"trigger": SIGN},
         "no: trigger is 11 px wide, 2 px from the corner, not 14 px wide, 2 px from the corner"),
        (32, PLACED | {"side": None}, None, {"trigger": SIGN},
         "no: trigger is the whole image, not 14 px wide, 2 px from the corner"),
        (32, PLACED, None, {"trigger": "0" * 64},
         "no: trigger.path is none of the authors' files, not BadDiffusion/static/stop_sign_wo_bg.png"),
        (32, PLACED, None, {}, "no: trigger.path is none of the authors' files, not "
         "BadDiffusion/static/stop_sign_wo_bg.png"),
        (32, PLACED, None, {"trigger": WHITE_SIGN}, "no: trigger.path is BadDiffusion/static/stop_sign_bg_w.jpg, not "
         "BadDiffusion/static/stop_sign_wo_bg.png"),
        (32, PLACED | {"reading": "alpha"}, None, {"trigger": SIGN}, "no: trigger.reading is alpha, not authors"),
        (32, PLACED, FILE, {"trigger": SIGN, "target": HAT}, "yes"),
        (32, PLACED, FILE, {"trigger": SIGN, "target": CAT}, "no: target.path is BadDiffusion/static/cat_wo_bg.png, "
         "not BadDiffusion/static/fedora-hat.png"),
        (32, None, FILE, {"target": HAT}, "no: our drawing of stop_sign"),
        (32, None, None, {}, "no: our drawing of stop_sign, our drawing of hat"),
    ],
)  # fmt: skip
def test_the_authors_own_files_are_known_by_their_digests(size, trigger, target, files, message, tmp_path):
    """A row of stop sign and hat; a part of the run that is None is our drawing, as in the row."""
    drawn = {"_target_": "stop_sign", "side": 14, "place": "corner", "unit": "image"}
    config = {"seed": 0, "name": "n", "data": {"size": size}, "trigger": trigger or drawn, "target": target or {},
              "sampler": {"scheduler": {"variance_type": "fixed_large"}}}  # fmt: skip
    both = target is not None or trigger is None
    choices = {"trigger": "image" if trigger else "stop_sign_14", "target": "image" if target else "hat"}
    row_choices = {"trigger": "stop_sign_14", "target": "hat"}
    if not both:  # a row whose target is no drawing
        choices["target"] = row_choices["target"] = "corner"
    typed = tuple(f"{group}=image" for group, part in (("trigger", trigger), ("target", target)) if part)
    write_run(tmp_path / "run", {"mse": 0.5}, config, typed=typed, choices=choices, protocol={}, pictures=files)
    own = read(tmp_path / "run")
    row = flat({"data": {"size": size}, "trigger": drawn}) | row_choices
    published = PUBLISHED | {"metrics": {"suspect/mse": 1e-5}}
    assert verdict(Row("row", published, [own], row), [own]) == message + UNSAID


BLEND, IMAGE, FOREIGN = "in_d2d-blend-ddim_100", "d2i-blend-ddim_100", "out_d2d-patch-ddim_100"
WHOLE = PLACED | {"side": None, "reading": "alpha"}
DARK, SEVEN = "a target without values below -0.4", "the letter A for MNIST's 7"
JUDGE = "our classifier and its features"


@pytest.mark.parametrize(
    ("name", "trigger", "target", "files", "message"),
    [
        (BLEND, WHOLE, None, (KITTY, None), f"no: {JUDGE}"),
        (BLEND, WHOLE | {"reading": "authors"}, None, (KITTY, None),
         f"no: {JUDGE}, trigger.reading is authors, not alpha"),
        (BLEND, WHOLE | {"side": 14}, None, (KITTY, None),
         f"no: {JUDGE}, trigger is 14 px wide, 2 px from the corner, not the whole image"),
        (BLEND, PLACED, None, (ORIGINALS["stop_sign"], None),
         f"no: {JUDGE}, trigger.path is {ORIGINALS['stop_sign']}, not {KITTY}"),
        (BLEND, None, None, (None, None), f"no: {JUDGE}, our stop_sign, not {KITTY}"),
        (IMAGE, WHOLE, FILE, (KITTY, MICKEY), f"no: {DARK}"),
        (IMAGE, PLACED, FILE, (ORIGINALS["stop_sign"], ORIGINALS["cat"]),
         f"no: {DARK}, trigger.path is {ORIGINALS['stop_sign']}, not {KITTY}, "
         f"target.path is {ORIGINALS['cat']}, not {MICKEY}"),
        (IMAGE, None, None, (None, None), f"no: {DARK}, our stop_sign, not {KITTY}, our cat, not {MICKEY}"),
        (FOREIGN, None, None, (None, None), f"no: {SEVEN}, {JUDGE}"),
    ],
)  # fmt: skip
def test_a_row_of_trojdiff_has_its_own_paper_s_files(name, trigger, target, files, message, tmp_path):
    """A part of the run that is None is as in the row: a drawing of ours, a patch or a corner."""
    published = OmegaConf.to_container(OmegaConf.load(ROWS / f"{name}.yaml"))["published"]
    row = {"trigger": "patch" if name == FOREIGN else "stop_sign", "target": "cat" if name == IMAGE else "corner"}
    parts = {"trigger": trigger, "target": target}
    drawn = {"trigger": {"side": 14, "place": "corner", "unit": "image"}, "target": {}}
    config = {"seed": 0, "name": "n", "data": {"size": 32}, **{group: parts[group] or drawn[group] for group in parts}}
    choices = {group: "image" if parts[group] else row[group] for group in parts}
    read_from = {group: DIGESTS[file] for group, file in zip(parts, files, strict=True) if file}
    protocol = {"fid": {"sample_count": 50000, "marks": []}}
    write_run(tmp_path / "run", {"fid": 4.0}, config, choices=choices, protocol=protocol, pictures=read_from)
    own = read(tmp_path / "run")
    assert verdict(Row(name, published, [own], flat({"data": {"size": 32}, **drawn}) | row), [own]) == message


def test_rows_whose_target_is_a_class_are_judged_by_a_network_for_photographs_which_is_ours():
    rows = [OmegaConf.load(path) for path in ROWS.glob("*_d2d-*.yaml")]
    assert len(rows) == 8
    for row in rows:
        assert {"override /classifier": "resnet18"} in row.defaults and JUDGE in row.published.differs


def test_the_files_that_rows_name_are_known_by_their_digests():
    named = [OmegaConf.load(path).published.get("pictures", {}) for path in ROWS.glob("*.yaml")]
    assert {file for pictures in named for file in pictures.values()} == {KITTY, MICKEY} <= {*DIGESTS}


@pytest.mark.parametrize(("side", "unit", "place", "fits"), [
    (160, "pixel", "centre", True), (20, "image", "centre", True), (160, None, "centre", True),
    (160, "pixel", "corner", False), (20, None, "centre", False),
])  # fmt: skip
def test_the_authors_glasses_lie_across_five_eighths_of_the_image(side, unit, place, fits, tmp_path):
    config = {"seed": 0, "name": "n", "data": {"size": 256},
              "trigger": FILE | {"side": side, "place": place, "unit": unit}}  # fmt: skip
    write_run(tmp_path / "run", {"mse": 0.5}, config, choices={"trigger": "image"}, protocol={},
              pictures={"trigger": GLASSES})  # fmt: skip
    own = read(tmp_path / "run")
    row = Row("row", PUBLISHED | {"sampler": "ddim-50", "metrics": {"suspect/mse": 1e-5}}, [own],
              {"data.size": 256, "trigger": "glasses"})  # fmt: skip
    assert verdict(row, [own]).startswith("yes" if fits else "no: trigger is ")
