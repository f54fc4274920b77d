"""The site of leaderboards: its numbers against ones worked out by hand, its links, strangers' words, and a browser."""

import json
import os
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from fake_runs import settings, write_run
from PIL import Image

from bdiff.cli.main import command
from bdiff.common.errors import RequestError
from bdiff.report.board_sheets import boards, sheets
from bdiff.report.cells import read_results, results_of
from bdiff.report.overview_figure import Entry, entry, naming
from bdiff.report.runs import find
from bdiff.report.site import write_site
from bdiff.report.site_boards import BOARDS
from bdiff.report.site_pages import board_page, cell_page
from bdiff.report.site_rows import Matrix, Row, matrix

HOSTILE = "<script>document.title='owned'</script>\"><img src=x onerror=alert(1)>"
MADE = {"device": "CPU", "commit": None, "dirty": None, "version": "1", "keys": {}, "versions": {},
        "provenance": {"train": {"finished": "2026-01-31T12:00:00+0000", "seconds": 3.0}}}  # fmt: skip
DEFENSE = {
    "purediffusion": "bdiff.defense.detection.purediffusion.PureDiffusion",
    "elijah": "bdiff.defense.detection.elijah.Elijah",
    "anp": "bdiff.defense.removal.anp.ANP",
    "disdet": "bdiff.defense.inputs.disdet.DisDet",
}


def run(folder: Path, attack: str, defense: str = "none", metrics=(), *, seed: int = 0, **more) -> Path:
    """A run of an attack; `metrics` have their full names."""
    attacks = {"_target_": f"bdiff.attack.{attack}"}
    if attack != "none":
        attacks["poison_rate"] = more.pop("rate", 0.1)
    if "adaptive_to" in more:
        attacks["adaptive_to"] = more.pop("adaptive_to")
    part = {"_target_": DEFENSE[defense]} | more.pop("parts", {}) if defense != "none" else {}
    sampler = more.pop("sampler", "ddpm")
    config = settings(seed=seed, attack=attacks, defense=part, sampler={"scheduler": sampler})
    choices = {"attack": attack, "trigger": more.pop("trigger", "box"), "target": "hat", "data": "digits"}
    choices |= {"model": "digits", "sampler": sampler, "defense": defense}
    words = (f"attack={attack}", f"seed={seed}", "paths.outputs=/home/someone")
    write_run(folder, dict(metrics), config, choices=choices, typed=words, **MADE | more)
    (folder / "figures").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "figures" / "trigger.png")
    (folder / "report.html").write_text("<p>a run")
    return folder


def outputs(root: Path) -> Path:
    """Attacks against detections, a removal and an input check, in two sweeps."""
    for number, score in enumerate((0.1, 0.3)):
        run(root / f"clean{number}", "none", "elijah", {"audit/score": score, "audit/flagged": 0.0}, seed=number)
    for number, score in enumerate((0.2, 0.9)):
        run(root / f"hit{number}", "baddiffusion", "elijah", {"audit/score": score, "audit/flagged": 1.0}, seed=number)
    run(root / "knows", "learned", "elijah", {"audit/score": 0.0}, adaptive_to=["elijah"])
    run(root / "other", "baddiffusion", "purediffusion", {"audit/score": 0.9})
    run(root / "failed", "learned", "purediffusion", status="failed", error="no <memory> left",
        adaptive_to=["elijah"])  # fmt: skip
    run(root / "anp", "baddiffusion", "anp", {"repaired/asr": 0.2, "suspect/asr": 0.9, "suspect/fid": 4.0,
                                               "repaired/fid": 5.0})  # fmt: skip
    for place, sampler in enumerate(("ddpm", "ddim")):
        for seed, asr in enumerate((0.5, 0.7)):
            run(root / f"{sampler}{seed}", "baddiffusion", metrics={"suspect/asr": asr + place * 0.3}, seed=seed,
                sampler=sampler)  # fmt: skip
    run(
        root / "disdet",
        "trojdiff",
        "disdet",
        {"inputs/auroc": 0.75},
        protocol={"inputs": {"absent": {"tpr": "none", "tpr@0.01": "too few"}}},
    )
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """Run folders and a result from elsewhere, and the site of them."""
    home = tmp_path_factory.mktemp("home")
    runs, site = home / "outputs with & in it", home / "site"
    outputs(runs)
    found = stranger(runs)
    (home / "theirs").mkdir()
    (home / "theirs" / "a b.json").write_text(json.dumps(found))
    assert command(["report", str(runs), "--site", str(site), "--results", str(home / "theirs")]) == 0
    return runs, site


def stranger(root: Path) -> dict:
    """A result of somebody else, in words that a page must not take for its own."""
    (cell,) = (one for one in results_of(find([root])) if one.run.folder.name == "other")
    assert cell.json
    place = cell.place | {"attack": HOSTILE, "trigger": HOSTILE, "seed": 9}
    return cell.json | {"cell": place, "name": HOSTILE, "command": HOSTILE, "note": HOSTILE,
                        "protocol": {HOSTILE: HOSTILE}, "config": {HOSTILE: [HOSTILE]}}  # fmt: skip


def board(root: Path, name: str):
    """The leaderboard's numbers by attack, column and measure, and its page."""
    page = board_page(name, matrix(BOARDS[name], results_of(find([root]))), lambda cell: None)
    return {(slot.row.attack, slot.column): slot.values for slot in page.slots}, page


def test_numbers_are_means_over_seeds_rates_over_scores_and_ratios(made):
    found, page = board(made[0], "detection")
    assert found["baddiffusion", "elijah"]["AUROC"].number == 0.75  # .2 beats .1 alone, .9 both
    assert found["learned", "elijah"]["AUROC"].number == 0
    assert found["none", "elijah"]["AUROC"].reason == "the reference of others"
    assert found["none", "elijah"]["flagged"].text == "0.000 ± 0.000"
    assert found["baddiffusion", "purediffusion"]["AUROC"].reason == "no clean model was judged"
    assert found["learned", "purediffusion"]["AUROC"].reason == "failed: no <memory> left"
    assert page.unadapted == ["purediffusion"]
    assert [(rank.name, rank.mean, rank.worst, rank.count) for rank in page.tables[0].ranks] == [
        ("elijah", 0.375, 0, 2)
    ]
    attacks, _ = board(made[0], "attacks")
    assert attacks["baddiffusion", "ddpm"]["ASR"].text == "0.600 ± 0.141"
    assert attacks["baddiffusion", "ddim"]["ASR"].number == pytest.approx(0.9)
    removal, page = board(made[0], "removal")
    assert removal["baddiffusion", "anp"]["distance ratio"].number == 1.25
    assert removal["baddiffusion", "anp"]["ASR"].tone == 80  # lower is better
    inputs, _ = board(made[0], "inputs")
    assert inputs["trojdiff", "disdet"]["TPR at 1 %"].reason == "too few"


def test_what_is_absent_is_said_by_the_protocol_that_it_belongs_to(tmp_path):
    other, found = "no threshold holds for such data", {"audit/score": 0.1}
    run(tmp_path / "clean", "none", "elijah", found, protocol={"audit": {"not flagged": other}})
    run(tmp_path / "hit", "baddiffusion", "elijah", found, protocol={"audit": {"absent": "no true trigger"}})
    nothing = {"asr": {"absent": "no image is labelled right"}}
    run(tmp_path / "shield", "trojdiff", "disdet", {"shield/clean/accuracy": 0.0, "repaired/mse": 0.5},
        protocol={"asr": {"absent": "the target is a class"}, "shield": nothing})  # fmt: skip
    detection, _ = board(tmp_path, "detection")
    assert detection["none", "elijah"]["flagged"].reason == other
    assert detection["baddiffusion", "elijah"]["flagged"].reason == "no threshold"
    assert detection["baddiffusion", "elijah"]["cosine"].reason == "no true trigger"
    assert board(tmp_path, "shields")[0]["trojdiff", "disdet"]["ASR"].reason == "no image is labelled right"
    assert board(tmp_path, "removal")[0]["trojdiff", "disdet"]["ASR"].reason == "the target is a class"


def test_a_table_holds_scores_against_the_same_clean_models_as_the_site(tmp_path):
    run(tmp_path / "clean", "none", "elijah", {"audit/score": 0.1})
    run(tmp_path / "hit", "baddiffusion", "elijah", {"audit/score": 0.5})
    cells = results_of(find([tmp_path]))
    clean = next(cell for cell in cells if cell.clean)  # of the same seed from elsewhere, so that it counts nowhere
    theirs = replace(clean.run, record=clean.run.record | {"metrics": {"audit/score": 0.9}})
    table = sheets(matrix(BOARDS["detection"], [*cells, replace(clean, run=theirs, file=tmp_path / "theirs.json")]))[0]
    assert [row[1].text for row in table.rows] == ["the reference of others", "1.000"]


def test_rows_hold_one_setting_and_columns_are_told_apart(tmp_path):
    for place, (rate, steps) in enumerate([(0.1, 5), (0.2, 5), (0.1, 9)]):
        run(tmp_path / str(place), "baddiffusion", "elijah", {"audit/score": 0.1}, rate=rate, parts={"steps": steps})
    page = board(tmp_path, "detection")[1]
    assert [row.said for row in page.matrix.rows] == ["poison rate 0.1", "poison rate 0.2"]
    assert page.matrix.columns == ["elijah", "elijah, steps 5", "elijah, steps 9"]
    assert page.filters == {"poison_rate": ["0.1", "0.2"]}


def test_a_precision_that_was_typed_makes_no_column_of_its_own_where_the_device_chooses_the_same(tmp_path):
    for seed, typed in enumerate(([], ["defense.precision=fp32"])):
        run(tmp_path / str(seed), "baddiffusion", "elijah", {"audit/score": 0.1}, seed=seed, overrides=typed,
            parts={"precision": "fp32"})  # fmt: skip
    assert board(tmp_path, "detection")[1].matrix.columns == ["elijah"]
    run(tmp_path / "2", "baddiffusion", "elijah", {"audit/score": 0.1}, seed=2, parts={"precision": "bf16"})
    assert board(tmp_path, "detection")[1].matrix.columns == ["elijah, precision bf16", "elijah, precision fp32"]


@pytest.mark.parametrize(
    ("metrics", "unadapted"),
    [({}, []), ({"suspect/asr": 0.5}, []), ({"suspect/asr": 0.4}, ["elijah"]), ({"suspect/class_asr": 0.9}, [])],
)
def test_an_attack_made_against_a_defense_counts_where_it_opened(metrics, unadapted, tmp_path):
    run(tmp_path / "one", "learned", "elijah", {"audit/score": 0.0} | metrics, adaptive_to=["elijah"])
    assert board(tmp_path, "detection")[1].unadapted == unadapted


def test_what_is_said_of_an_attack_makes_no_other_result(tmp_path):
    for known in ([], ["elijah"]):
        run(tmp_path / str(len(known)), "learned", "elijah", {"audit/score": 0.0}, adaptive_to=known)
    assert len(results_of(find([tmp_path]))) == 1


def test_results_of_a_cell_are_in_the_order_of_their_seeds(tmp_path):
    for seed in (10, 2, 0):
        run(tmp_path / str(seed), "baddiffusion", metrics={"suspect/asr": 0.5}, seed=seed)
    page = board(tmp_path, "attacks")[1]
    results = cell_page(page, page.slots[0], lambda cell: None)["results"]
    assert [cell.place["seed"] for cell, *_ in results] == [0, 2, 10]


def test_a_repair_makes_no_other_detection(tmp_path):
    for seed, repair in enumerate((False, True)):
        run(tmp_path / str(seed), "baddiffusion", "elijah", {"audit/score": 0.5}, seed=seed, parts={"repair": repair})
    found = matrix(BOARDS["detection"], results_of(find([tmp_path])))
    assert found.columns == ["elijah"] and len(found.rows) == 1


def test_a_clean_model_counts_once_with_a_repair_and_without(tmp_path):
    for name, seed, repair, score in [("a", 0, False, 0.1), ("b", 0, True, 0.1), ("c", 1, False, 0.9)]:
        run(tmp_path / name, "none", "elijah", {"audit/score": score}, seed=seed, parts={"repair": repair})
    run(tmp_path / "hit", "baddiffusion", "elijah", {"audit/score": 0.5})
    found, page = board(tmp_path, "detection")
    assert found["baddiffusion", "elijah"]["AUROC"].number == 0.5
    (slot,) = (one for one in page.slots if one.row.attack == "baddiffusion")
    assert cell_page(page, slot, lambda cell: None)["clean"] == 2
    assert entry(page.tables[0].measure, None, page.matrix, [slot.row], "elijah").text == ".50"


def test_a_model_that_only_runs_with_defenses_have_is_one_result_of_its_attack(tmp_path):
    for defense, seed in [("elijah", 0), ("disdet", 0), ("elijah", 1)]:
        run(tmp_path / f"{defense}{seed}", "baddiffusion", defense, {"suspect/asr": 0.5 + 0.2 * seed}, seed=seed)
    attacks, page = board(tmp_path, "attacks")
    assert page.matrix.columns == ["ddpm"] and len(page.matrix.cells) == 2
    assert attacks["baddiffusion", "ddpm"]["ASR"].text == "0.600 ± 0.141"


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (("/home/me/a", "/home/me/b"), {"a", "b"}),
        (("/home/me/a", "/home/you/a"), {"/home/me/a", "/home/you/a"}),  # which would read alike
        (("owner/a", "/home/me/b"), {"owner/a", "b"}),
    ],
)
def test_rows_name_folders_by_their_last_part_where_that_tells_them_apart(places, said, tmp_path):
    for place in places:
        folder = run(tmp_path / place.replace("/", "_"), "baddiffusion", metrics={"suspect/asr": 0.5})
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"model": {"pretrained": place}}))
    page = board(tmp_path, "attacks")[1]
    assert {row.more["model.pretrained"] for row in page.matrix.rows} == said


@pytest.mark.parametrize("config", ["a: 2026-01-31", "a: !!set {b}", "a: &b [*b]", "? [1]\n: 2", "- 1", ""])
def test_a_config_that_no_run_writes_is_left_out(config, tmp_path, caplog):
    folder = run(tmp_path / "run", "baddiffusion", metrics={"suspect/asr": 0.5})
    (folder / "config.yaml").write_text(config)
    assert find([tmp_path]) == []
    assert f"{folder} is skipped" in caplog.text


def test_every_link_of_the_site_leads_somewhere_within_reach(made):
    pages = [*made[1].rglob("*.html")]
    assert len(pages) > 15
    for page in pages:
        html = page.read_text()
        for name, link in re.findall(r'\s(href|src)="([^"]*)"', html):
            assert link == "data:," or (page.parent / unquote(unescape(link)).partition("#")[0]).exists(), (page, name)
    assert "outputs%20with%20%26%20in%20it/hit0/report.html" in (made[1] / "detection.html").read_text()


def test_a_run_with_a_damaged_picture_has_no_copy_of_its_page(tmp_path, caplog):
    folder = run(tmp_path / "run", "baddiffusion", metrics={"suspect/asr": 0.5})
    (folder / "figures" / "trigger.png").write_bytes(b"")
    write_site(tmp_path / "site", results_of(find([folder])), "site", copied=True)
    assert f"no page of {folder}: cannot identify image" in caplog.text
    assert not [*(tmp_path / "site" / "runs").iterdir()]
    assert 'href="runs/' not in (tmp_path / "site" / "attacks.html").read_text()


def test_words_of_strangers_stay_words(made):
    for page in made[1].rglob("*.html"):
        html = page.read_text()
        assert "<script>document" not in html and "<img src=x" not in html and "<memory>" not in html
    (page,) = (made[1] / "results").glob("*.html")
    assert HOSTILE in unescape(page.read_text()) and re.fullmatch(r"[\w.-]+", page.name)


def test_a_cell_says_how_it_was_measured_and_how_to_repeat_it_without_the_users_folders(made):
    texts = [unescape(page.read_text()) for page in (made[1] / "cells").glob("detection-*")]
    (text,) = (text for text in texts if "baddiffusion box, elijah" in text)
    assert "bdiff run attack=baddiffusion seed=1" in text and "/home/someone" not in text
    assert all(head in text for head in ("Protocol", "Provenance", "How to repeat it", "against 2 clean models"))
    assert not any("/home/someone" in path.read_text() for path in (made[1] / "results").glob("*.json"))


def test_what_is_written_is_a_result_that_the_site_takes_again(made, tmp_path):
    assert command(["results", "export", str(made[0]), "--out", str(tmp_path / "mine")]) == 0
    assert command(["results", "check", str(tmp_path / "mine")]) == 0
    cells, without = read_results([tmp_path / "mine"])
    assert len(cells) == 12 and without == []
    assert command(["report", "--results", str(tmp_path / "mine"), "--site", str(tmp_path / "site")]) == 0
    text = (tmp_path / "site" / "detection.html").read_text()
    assert "0.750" in text and "adaptive to elijah" in text
    again = results_of(find([made[0]])) + read_results([*tmp_path.glob("mine/*")])[0]
    page = board_page("attacks", matrix(BOARDS["attacks"], again), lambda cell: None)
    assert {slot.count for slot in page.slots if slot.row.attack == "baddiffusion"} == {2}, "a seed counts once"


@pytest.mark.parametrize("defense", ["none", "elijah"])
def test_what_is_from_elsewhere_or_unfinished_takes_nothing_of_the_attacks_board(defense, tmp_path):
    """A run without a defense, or of a model that is known from one with a defense alone."""
    run(tmp_path / "ours", "baddiffusion", defense, {"suspect/asr": 0.9})
    run(tmp_path / "killed", "baddiffusion", seed=1, status="interrupted")
    (ours, killed) = sorted(results_of(find([tmp_path])), key=lambda cell: not cell.run.done)
    record = ours.run.record | {"metrics": {"suspect/asr": 0.1}}
    theirs = replace(ours, run=replace(ours.run, record=record), file=tmp_path / "theirs.json",
                     place=ours.place | {"defense": "none", "role": "none"})  # fmt: skip
    page = board_page("attacks", matrix(BOARDS["attacks"], [ours, killed, theirs]), lambda cell: None)
    own = [slot for slot in page.slots if ours in slot.cells]
    assert [slot.values["ASR"].number for slot in own] == [0.9]
    unknown = [replace(theirs, place=theirs.place | {"seed": None}, file=tmp_path / f"{name}.json") for name in "ab"]
    page = board_page("attacks", matrix(BOARDS["attacks"], unknown), lambda cell: None)
    assert [slot.count for slot in page.slots] == [2]


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({}, 1.0),
        ({"data": {"path": "/home/me/b"}}, None),
        ({"schedule": {"num_train_timesteps": 1000}}, None),
        ({"sample": {"steps": 5}}, None),
        ({"defense": {"steps": 9}}, None),
        ({"defense": {"precision": "fp32"}}, 1.0),
        ({"model": {"pretrained": "/home/me/base"}}, 1.0),
    ],
)
def test_scores_are_held_against_clean_models_that_were_judged_alike(change, number, tmp_path):
    run(tmp_path / "hit", "baddiffusion", "elijah", {"audit/score": 0.5})
    clean = run(tmp_path / "clean", "none", "elijah", {"audit/score": 0.1})
    config = yaml.safe_load((clean / "config.yaml").read_text())
    for group, settings_of in change.items():
        config[group] = (config.get(group) or {}) | settings_of
    (clean / "config.yaml").write_text(yaml.safe_dump(config))
    assert board(tmp_path, "detection")[0]["baddiffusion", "elijah"]["AUROC"].number == number


def test_a_removal_that_ruins_the_model_is_ranked_last_and_what_never_opened_is_not_counted(tmp_path):
    costs = {"anp": ("baddiffusion", 0.0, 40.0), "elijah": ("baddiffusion", 0.2, 4.4)}
    for defense, (attack, left, fid) in costs.items():
        own = {"suspect/asr": 0.9, "suspect/fid": 4.0, "repaired/asr": left, "repaired/fid": fid}
        run(tmp_path / defense, attack, defense, own, parts={"repair": True} if defense == "elijah" else {})
    run(tmp_path / "shut", "trojdiff", "anp", {"suspect/asr": 0.0, "repaired/asr": 0.0})
    found, page = board(tmp_path, "removal")
    ranks = page.tables[0].ranks
    assert [(rank.name.split()[0], rank.mean, rank.count, rank.dear) for rank in ranks] == [
        ("elijah", 0.2, 1, False), ("anp", 0.0, 1, True)]  # fmt: skip
    assert found["baddiffusion", "anp"]["ASR"].tone == 0


def test_a_repair_that_failed_is_a_cell_of_the_removals(tmp_path):
    run(tmp_path / "failed", "baddiffusion", "elijah", parts={"repair": True}, status="failed", error="no memory left")
    (slot,) = board(tmp_path, "removal")[1].slots
    assert slot.values["ASR"].reason == "failed: no memory left"


def test_a_folder_of_something_else_is_left_alone(made, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RequestError, match="is not empty, and not a site of bdiff"):
        command_of(made[0], tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"
    command_of(made[0], tmp_path / "site", "--copy")
    command_of(made[0], tmp_path / "site", "--copy")  # in place of the earlier one
    assert "runs/" in (tmp_path / "site" / "detection.html").read_text()
    copies = [*(tmp_path / "site" / "runs").iterdir()]
    assert len(copies) == 13 and not any(str(made[0]) in path.read_text() for path in copies)


def command_of(folder: Path, site: Path, *words: str) -> None:
    """Write a site, with errors as they are raised."""
    from bdiff.cli.report import report

    report([str(folder), "--site", str(site), *words])


ROWS = """return [...document.querySelectorAll("section:not([hidden]) .matrix tbody tr")]
    .filter(row => !row.hidden).map(row => row.cells[0].textContent.trim().split(/\\s+/)[0])"""
SORTS = 'return [...document.querySelectorAll("section:not([hidden]) .matrix thead th")].map(th => th.ariaSort)'


def test_a_browser_sorts_by_keyboard_and_filters(made, browser):
    browser.open(made[1] / "detection.html", 1280, 900)
    browser.run('document.querySelectorAll(".matrix thead button")[1].focus()')
    assert browser.run(ROWS)[0] == "clean"
    browser.press("Enter")
    assert browser.run(SORTS)[:2] == ["none", "descending"]
    assert browser.run(ROWS)[:2] == ["baddiffusion", "learned"], "numbers first, the largest first"
    browser.press(" ")
    assert browser.run(SORTS)[:2] == ["none", "ascending"]
    assert browser.run(ROWS)[:2] == ["learned", "baddiffusion"]
    browser.run("""const one = document.querySelector('[data-filter="attack"]'); one.value = "learned";
        one.dispatchEvent(new Event("input", {bubbles: true}))""")
    assert browser.run(ROWS) == ["learned"]
    assert browser.run('return document.querySelector("[data-count]").textContent') == "1 of 4 rows"
    browser.run("""const one = document.querySelector("[data-measure]"); one.value = "2";
        one.dispatchEvent(new Event("input", {bubbles: true}))""")
    heads = 'return [...document.querySelectorAll("section:not([hidden]) > h2")].map(head => head.textContent)'
    assert browser.run(heads) == ["flagged"]
    assert browser.complaints() == []


def test_a_browser_shows_every_page_on_every_screen(made, browser):
    boards = [made[1] / f"{name}.html" for name in ("index", "detection", "shields")]
    for page in [*boards, next(made[1].glob("cells/detection*")), next(made[1].glob("results/*.html"))]:
        for width, height in ((390, 844), (1280, 900)):
            browser.open(page, width, height, "dark" if width == 390 else "light")
            assert browser.fits(width), page
            assert all(browser.run("return [...document.images].map(image => image.naturalWidth)"))
            assert browser.run("return document.title") != "owned"
    assert browser.complaints() == []
    browser.open(made[1] / "detection.html", 390, 844)
    moved, left = browser.run("""const box = document.querySelector(".matrix"); box.scrollLeft = 40;
        return [box.scrollLeft, box.querySelector("tbody th").getBoundingClientRect().left
            - box.getBoundingClientRect().left]""")
    assert (moved, left) == (40, 0), "the table moves within its box, and its first column stays"


def test_paper_is_light_and_shows_what_is_closed_or_scrolls(made, browser):
    browser.open(made[1] / "detection.html", 720, 900, "dark")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.command("Emulation.setEmulatedMedia", media="print", features=dark)
    style = """const style = (place, part) => getComputedStyle(document.querySelector(place), part);
        return [style("body").backgroundColor, style("nav").display, style(".controls").display,
            style(".matrix").overflowX, style(".matrix tbody th").position, style(".matrix td.none").minWidth,
            style("details:not([open])", "::details-content").contentVisibility]"""
    assert browser.run(style) == ["rgb(255, 255, 255)", "none", "none", "visible", "static", "0px", "visible"]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"repaired/asr": 0.25}, Entry(".25", "", 0.75)),
        ({"repaired/asr": 0.0, "repaired/fid": 3.0}, Entry(".00", "×1.20", 1.0)),
        ({"repaired/asr": 0.0, "repaired/fid": 150.0}, Entry(".00", "×60", 0.0)),
        ({"repaired/asr": 1.0, "repaired/fid": 1.0}, Entry("1.00", "×0.40", 0.0)),
        ({}, Entry("–")),
    ],
)
def test_the_overview_has_no_colour_where_a_removal_costs_too_much(metrics, expected, tmp_path):
    run(tmp_path / "one", "baddiffusion", "anp", {"repaired/mse": 0.0, "suspect/fid": 2.5} | metrics)
    found = boards(results_of(find([tmp_path])))["removal"]
    asr, loss = (next(one for one in found.board.measures if one.name == name) for name in ("ASR", "distance ratio"))
    assert entry(asr, loss, found, found.rows, "anp") == expected


def test_the_overview_keeps_rows_of_other_steps_apart():
    few, many = (Row("baddiffusion", "box", {"target": "hat", "steps": steps}, {}) for steps in ("20", "50"))
    same = Row("baddiffusion", "box", {"target": "hat"}, {})  # of a board whose rows all have 50
    both = Matrix(BOARDS["detection"], [few, many], [], {}, [])
    one = Matrix(BOARDS["removal"], [same], [], {"steps": "50"}, [])
    calls = naming([both, one])
    assert calls(both, few) == "baddiffusion box hat 20 steps"
    assert calls(both, many) == calls(one, same) == "baddiffusion box hat 50 steps"
    assert naming([one])(one, same) == "baddiffusion box hat"


def test_the_boards_are_tables_too(tmp_path, capsys):
    outputs(tmp_path / "outputs")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "attacks.csv").write_text("old")
    os.link(tmp_path / "tables" / "attacks.csv", tmp_path / "open")  # as one who reads it has it
    assert command(["report", str(tmp_path / "outputs"), "--tables", str(tmp_path / "tables")]) == 0
    assert (tmp_path / "open").read_text() == "old"
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {f"{board}.{ending}" for board in ("attacks", "detection", "inputs", "removal")
                     for ending in ("txt", "md", "latex", "csv")} | {"overview.png"}  # fmt: skip
    lines = (tmp_path / "tables" / "attacks.csv").read_text().splitlines()
    assert lines[0] == 'number,"attack, trigger",sampler,value mean,value std,value n'
    (asr,) = [line.split(",") for line in lines if line.startswith("ASR,baddiffusion") and ",ddim" in line]
    assert [float(one) for one in asr[-3:]] == [pytest.approx(0.9), pytest.approx(0.02**0.5), 2]
    text = (tmp_path / "tables" / "detection.md").read_text()
    assert "purediffusion †" in text and "elijah †" not in text  # the second has an attack that knows it
    assert "failed: no \\<memory> left" in text and "the reference of others" in text
    assert r"$\dagger$" in (tmp_path / "tables" / "detection.latex").read_text()
    capsys.readouterr()
    assert command(["report", str(tmp_path / "outputs")]) == 0
    printed = capsys.readouterr().out
    assert all(f"{title}: " in printed for title in ("Attacks", "Detections", "Input checks", "Removals"))
