"""Pages of runs and of sweeps: whole in one file, escaped, true to their folders, and right in a browser."""

import json
import re
import shlex
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from PIL import Image

from bdiff.report import charts
from bdiff.report.meanings import meaning
from bdiff.report.page import duration, write_run_page, write_sweep_page

SIZES = [(390, 844), (1280, 900), (1920, 1080)]
FIGURES = ("trigger", "target", "stamped_example", "clean", "triggered", "trajectory", "loss", "overview")
PROTOCOL = {
    "asr": {"on": "per-image MSE on [0,1]", "threshold": 0.05, "count": 12},
    "fid": {"extractor": "InceptionV3", "marks": ["fewer samples than dimensions", "no such weights"], "exact": True},
    "images": 12,
    "sampler": {"name": "DDPMScheduler", "steps": 4, "clip": False},
}


def made(folder: Path, rate: float = 0.1, target: str = "hat", seed: int = 0, figures=FIGURES, **changes) -> Path:
    """A run folder made by hand; `changes` go into its metrics.json."""
    (folder / "figures").mkdir(parents=True)
    for place, name in enumerate(figures):
        Image.new("RGB", (64, 48), (20 * place, 90, 90)).save(folder / "figures" / f"{name}.png")
    (folder / "run.log").write_text("a line\n")
    config = {"attack": {"poison_rate": rate}, "data": {"path": "<b>&</b>"}, "seed": seed, "name": "made"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = {
        "name": "made", "status": "done", "device": "CPU", "git": "abc", "published": None,
        "overrides": [f"attack.poison_rate={rate}", f"target={target}", f"seed={seed}", "data.path='<b>&</b>'"],
        "choices": {"attack": "baddiffusion", "target": target, "experiment": None},
        "versions": {"bdiff": "0", "torch": "2"}, "keys": {"train": "0123456789abcdef"}, "reused": ["train"],
        "seconds": {"train": 61.0, "total": 75.5}, "protocol": PROTOCOL, "model": "outputs/model",
        "metrics": {"suspect/asr": rate * 2, "suspect/fid": 10.0, "suspect/psnr": 20.0},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(record | changes))
    return folder


def test_a_page_counts_clean_and_triggered_samples_apart(tmp_path):
    protocol = PROTOCOL | {"images": 10000, "asr": {"count": 2048}}
    text = " ".join(write_run_page(made(tmp_path / "run", protocol=protocol)).read_text().split())
    assert " of 2048 samples" in text
    assert "10000 clean and 2048 triggered images were drawn, from the same noise, with" in text
    protocol |= {"asr": {"absent": "the target is a class"}, "class_asr": {"count": 1024}}
    text = " ".join(write_run_page(made(tmp_path / "class", protocol=protocol)).read_text().split())
    assert "10000 clean and 1024 triggered images were drawn" in text


def test_a_page_that_is_published_says_nothing_of_the_machine(tmp_path):
    words = ["paths.outputs=/home/me", "seed=1", "model.pretrained='/home/me/my base'", "+data.path=/home/me/a.zip"]
    folder = made(tmp_path / "run", overrides=words)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"model": {"pretrained": "/home/me/my base"}, "data": {"path": "/home/me/a.zip"},
               "metric": {"fid": {"reference": "~/me/r.npz"}}, "defense": {"clean": "owner/name"}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert "/home/me" in write_run_page(folder).read_text()
    text = write_run_page(folder, tmp_path / "public.html").read_text()
    assert "/home/me" not in text and str(tmp_path) not in text and "run.log" not in text
    assert """bdiff run seed=1 'model.pretrained="my base"' '+data.path="a.zip"'""" in unescape(text)
    assert all(line in text for line in ("pretrained: my base", "reference: r.npz", "clean: owner/name"))
    assert "bdiff rerun" not in text and "\npaths:" not in text


def failed(folder: Path, **settings) -> Path:
    """A run folder as a failed job leaves it."""
    error = "the loss became <nan> & that was it"
    run = made(folder, figures=(), status="failed", error=error, metrics={}, **settings)
    record = json.loads((run / "metrics.json").read_text())
    for name in ("device", "keys", "reused", "seconds", "protocol", "model"):  # not known before the end
        del record[name]
    (run / "metrics.json").write_text(json.dumps(record))
    return run


def sweep(root: Path) -> Path:
    """The page of a sweep over poison rates, targets and seeds with a failed and a lost job."""
    jobs = [
        made(root / f"{number} rate={rate},{target}", rate, target, seed)
        for number, (rate, target, seed) in enumerate(
            (rate, target, seed) for rate in (0.05, 0.1, 0.3) for target in ("hat", "corner") for seed in (0, 1)
        )
    ]
    write_run_page(jobs[0])
    jobs.append(failed(root / "failed", rate=0.5))
    (root / "lost").mkdir()
    return write_sweep_page([*jobs, root / "lost"], root / "report.html", "rates <b>&</b> targets")


def test_a_sweep_over_lists_has_a_page(tmp_path):
    jobs = [made(tmp_path / f"{number}", rate, seed=number) for number, rate in enumerate((0.05, 0.1))]
    for job, widths in zip(jobs, ([16, 64], [16, 32]), strict=True):
        config = yaml.safe_load((job / "config.yaml").read_text()) | {"widths": widths}
        (job / "config.yaml").write_text(yaml.safe_dump(config))
        record = json.loads((job / "metrics.json").read_text())
        record["overrides"] = [f"widths={widths}"]
        (job / "metrics.json").write_text(json.dumps(record))
    assert "[16, 32]" in write_sweep_page(jobs, tmp_path / "report.html", "widths").read_text()


def attributes(html: str, name: str) -> list[str]:
    """The values of an attribute, wherever it stands."""
    return [unescape(value) for value in re.findall(rf'\s{name}="([^"]*)"', html)]


def readable(html: str) -> str:
    """What a page says, without its tags."""
    body = html.partition("<body>")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_a_page_holds_all_its_pictures_and_asks_for_nothing(tmp_path):
    for page in (write_run_page(made(tmp_path / "run")), sweep(tmp_path / "sweep")):
        html = page.read_text()
        assert all(source.startswith("data:image/") for source in attributes(html, "src"))
        assert all(":" not in link or link == "data:," for link in attributes(html, "href"))
        assert "<script" not in html and "url(" not in html and "@import" not in html
        assert all(attributes(html, "alt"))
        assert html.count("<img") == len(attributes(html, "alt")) >= 7


def test_pictures_come_first_and_what_has_no_place_follows(tmp_path):
    html = write_run_page(made(tmp_path / "run", figures=(*FIGURES, "inverted_trigger"))).read_text()
    captions = re.findall(r"<figcaption><b>(.*?)</b>", html)
    assert captions == ["Trigger", "Target", "Stamped", "Clean samples", "Triggered samples", "On the way",
                        "Inverted trigger", "Loss"]  # fmt: skip
    heads = re.findall(r"<h2>(.*?)</h2>", html)
    assert heads == ["Pictures", "Training", "Numbers", "How it was measured", "How to repeat it"]


def test_a_run_of_before_shows_its_overview(tmp_path):
    assert "<b>Overview</b>" in write_run_page(made(tmp_path / "run", figures=("overview",))).read_text()


def test_a_run_page_says_what_the_record_says(tmp_path):
    published = {"source": "a paper", "metrics": {"suspect/fid": 71.054}}
    text = readable(write_run_page(made(tmp_path / "run", published=published)).read_text())
    for said in ("20.0 % of 12 samples", "done in 1 min 16 s", "DDPMScheduler in 4 steps, without clipping",
                 "per-image MSE on [0,1] stays under 0.05", "fewer samples than dimensions, no such weights",
                 "exact yes", "Lower is better. 10.00 71.05", "source a paper", "0123456789abcdef , 1 min 1 s, reused",
                 "torch 2", "commit abc", "poison rate 0.1"):  # fmt: skip
        assert said in text
    assert "not set" not in text


def test_the_leak_stands_beside_the_success_where_it_was_measured(tmp_path, drawn):
    leak = {"suspect/asr": 0.9, "suspect/false_trigger": 0.047, "suspect/false_trigger_se": 0.013,
            "data/false_trigger": 0.002}  # fmt: skip
    new, old = made(tmp_path / "new", metrics=leak), made(tmp_path / "old", seed=1)
    text = readable(write_run_page(new).read_text())
    assert "draws the target in 90.0 % of 12 samples; without it in 4.7 %." in text
    assert "0.047 (se 0.013)" in text and "How much of the backdoor leaks" in text and "0.002" in text
    assert "without it in" not in readable(write_run_page(old).read_text())
    page = readable(write_sweep_page([new, old], tmp_path / "report.html", "both").read_text())
    assert "target in 90.0 % of triggered samples, 4.7 % of clean ones" in page
    assert "target in 20.0 % of triggered samples clean triggered" in page
    assert "false_trigger" in [figure.axes[0].get_xlabel() for figure in drawn], "a chart, of models only"
    assert "data/false_trigger" not in [figure.axes[0].get_xlabel() for figure in drawn]


def test_the_command_on_the_page_is_the_one_that_was_given(tmp_path):
    folder = made(tmp_path / "a run")
    commands = re.findall(r'<pre class="command">(.*?)</pre>', write_run_page(folder).read_text())
    rerun, run = (shlex.split(unescape(command)) for command in commands)
    assert rerun == ["bdiff", "rerun", str(folder)]
    assert run == ["bdiff", "run", *json.loads((folder / "metrics.json").read_text())["overrides"]]


def test_a_failed_run_says_so_with_its_line_and_log(tmp_path):
    folder = failed(tmp_path / "run")
    html = write_run_page(folder).read_text()
    assert "<nan>" not in html
    assert "This run failed. the loss became <nan> & that was it" in readable(html)
    assert f"{folder}/run.log" in readable(html)
    assert "<img" not in html and "<h2>Numbers" not in html


def test_words_from_a_config_are_escaped(tmp_path):
    for page in (write_run_page(made(tmp_path / "run")), sweep(tmp_path / "sweep")):
        html = page.read_text()
        assert "<b>&</b>" not in html
        assert "<b>&</b>" in unescape(html)


def test_no_run_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_run_page(tmp_path)


def test_a_sweep_page_lists_every_job_and_leads_to_it(tmp_path):
    page = sweep(tmp_path)
    html, text = page.read_text(), readable(page.read_text())
    assert html.count("<tr>") == 1 + 14
    assert "12 done , 1 failed , 1 lost" in text
    assert "2 of 14 jobs did not finish." in text
    assert "the loss became <nan> & that was it (log failed/run.log )" in text
    assert "attack.poison_rate 0.05, 0.1, 0.3, 0.5" in text
    links = [unquote(link) for link in attributes(html, "href") if link != "data:,"]
    assert all((tmp_path / link).exists() for link in links)
    assert {"0 rate=0.05,hat/report.html", "failed/run.log", "11 rate=0.3,corner", "lost"} <= set(links)


def test_a_sweep_page_gives_the_command_of_a_whole_sweep_only(tmp_path):
    jobs = [made(tmp_path / f"{rate}{target}", rate, target) for rate in (0.1, 0.2) for target in ("hat", "cat")]
    html = write_sweep_page(jobs, tmp_path / "report.html", "four").read_text()
    (command,) = re.findall(r'<pre class="command">(.*?)</pre>', html)
    assert shlex.split(unescape(command)) == [
        "bdiff", "run", "-m", "attack.poison_rate=0.1,0.2", "target=hat,cat", "seed=0", "data.path='<b>&</b>'"
    ]  # fmt: skip
    assert "How to repeat it" not in write_sweep_page(jobs[:3], tmp_path / "report.html", "three").read_text()


def test_a_sweep_that_only_failed_has_a_page(tmp_path):
    text = readable(write_sweep_page([failed(tmp_path / "a")], tmp_path / "report.html", "none").read_text())
    assert "1 of 1 jobs did not finish" in text


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The charts of this test, as figures."""
    figures: list = []
    monkeypatch.setattr(charts, "svg", lambda figure: figures.append(figure) or b"<svg/>")
    return figures


def test_a_chart_runs_over_the_poison_rate_with_a_line_per_target_and_the_mean_over_seeds(tmp_path, drawn):
    for rate, target, seed, asr in [(0.1, "hat", 0, 0.2), (0.1, "hat", 1, 0.4), (0.2, "hat", 0, 0.9),
                                    (0.1, "cat", 0, 0.5), (0.2, "cat", 0, 0.7)]:  # fmt: skip
        made(tmp_path / f"{rate}{target}{seed}", rate, target, seed, metrics={"suspect/asr": asr, "suspect/ssim": 1.0})
    write_sweep_page(sorted(tmp_path.iterdir()), tmp_path / "report.html", "sweep")
    (figure,) = drawn  # ssim is not drawn
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("attack.poison_rate", "asr")
    lines = {one.get_label(): one.lines[0].get_xydata().tolist() for one in axes.containers}
    assert lines["cat"] == [[0.1, 0.5], [0.2, 0.7]]
    assert lines["hat"] == [[0.1, pytest.approx(0.3)], [0.2, 0.9]]
    (spread,) = axes.containers[1].lines[2][0].get_segments()[:1]
    assert spread[1][1] - spread[0][1] == pytest.approx(2 * 0.2 / 2**0.5)  # two values .2 apart: s = .2 / sqrt 2
    assert len({one.lines[0].get_color() for one in axes.containers}) == 2


def test_without_a_number_to_draw_over_there_are_bars(tmp_path, drawn):
    for target, asr in (("hat", 0.25), ("cat", 0.75)):
        made(tmp_path / target, target=target, metrics={"suspect/asr": asr})
    write_sweep_page(sorted(tmp_path.iterdir()), tmp_path / "report.html", "sweep")
    (axes,) = drawn[0].axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert dict(zip(names, [bar.get_width() for bar in axes.patches], strict=True)) == {"cat": 0.75, "hat": 0.25}


def test_lines_of_two_settings_differ_in_colour_or_dash():
    names = [(trigger, target) for trigger in "ab" for target in "cdefghijk"]
    assert len({(colour, dash) for colour, dash, _ in charts.styles(names)}) == len(names)
    assert len({colour for colour, _, _ in charts.styles([("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")])}) == 2


def test_durations_are_reported_in_words():
    assert [duration(one) for one in (8.44, 116.0, 7530.0)] == ["8.4 s", "1 min 56 s", "2 h 5 min"]


PICTURES = "return [...document.images].map(image => image.naturalWidth)"
GROUND = "return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"


@pytest.mark.parametrize("kind", ["run", "failed run", "sweep"])
def test_a_browser_shows_every_picture_on_every_screen(tmp_path, browser, kind):
    pages = {
        "run": lambda: write_run_page(made(tmp_path / "run", figures=(*FIGURES, "inverted_trigger"))),
        "failed run": lambda: write_run_page(failed(tmp_path / ("a-long-name" * 9))),
        "sweep": lambda: sweep(tmp_path / "sweep"),
    }
    page = pages[kind]()
    for width, height in SIZES:
        grounds = []
        for scheme in ("light", "dark"):
            browser.open(page, width, height, scheme)
            widths = browser.run(PICTURES)
            assert len(widths) == page.read_text().count("<img")
            assert all(widths)
            assert browser.fits(width)
            assert browser.complaints() == []
            grounds.append(sum(browser.run(GROUND)))
        assert grounds[0] > 600 > 150 > grounds[1]


def test_the_browser_sees_what_is_wrong_with_a_page(tmp_path, browser):
    """So that the checks above mean something."""
    page = tmp_path / "wrong.html"
    page.write_text(
        '<!doctype html><meta name="viewport" content="width=device-width"><img src="none.png"><p style="width:900px">.'
    )
    browser.open(page, 390, 844)
    assert browser.run(PICTURES) == [0]
    assert not browser.fits(390, patience=0.2)
    assert len(browser.complaints()) == 1


def test_a_metric_with_another_meaning_elsewhere_is_explained_by_its_whole_name():
    assert "input check" in meaning("inputs/tpr@0.01") and "entropy" in meaning("shield_strip/tpr")
    assert meaning("audit/nothing") and meaning("inputs/seconds_per_input") and not meaning("inputs/unheard_of")
