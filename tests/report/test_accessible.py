"""axe-core in a browser: pages of runs, sweeps, audits and the site have nothing that is serious for their readers."""

import json
import subprocess
from pathlib import Path

import pytest
from test_audit import QUICK, saved
from test_page import FIGURES, made, sweep
from test_site import made as site  # noqa: F401  the fixture

from bdiff.cli import main as cli
from bdiff.report.page import write_run_page

ROOT = Path(__file__).parents[2]
#: what `npm install --no-save axe-core` leaves in the repository, or in npm's own folder with --global
PLACES = "node_modules/axe-core/axe.min.js"
CHECK = """axe.run(document, {resultTypes: ["violations"]}).then(found => {
    window.found = found.violations.map(rule => ({rule: rule.id, impact: rule.impact,
        places: rule.nodes.map(node => node.target.join(" ") + ": " + node.failureSummary)}))})"""
DEFENDED = {
    "metrics": {"suspect/asr": 0.9, "repaired/asr": 0.1, "audit/score": -0.01, "audit/flagged": 1.0},
    "provenance": {"train": {"finished": "2026-01-31T12:00:00+0000", "seconds": 3.0}},
    "published": {"source": "a paper", "metrics": {"suspect/asr": 1.0}},
}


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    roots = [ROOT]
    try:
        asked = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, timeout=60)
        roots.append(Path(asked.stdout.strip()).parent)
    except FileNotFoundError:
        pass  # no npm
    found = [root / PLACES for root in roots if (root / PLACES).is_file()]
    if not found:
        pytest.skip("no axe-core: npm install --no-save axe-core")
    return found[0].read_text()


def violations(browser, axe: str, page: Path, width: int, scheme: str = "light") -> list[dict]:
    """What axe-core finds wrong with a page, in a narrow window rather than a phone, in which it does not return."""
    browser.open(page, 1280, 900, scheme)
    browser.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.run(axe)
    browser.run(f"setTimeout(() => {CHECK}, 0)")
    return browser.ask("POST", "/execute/async", {"args": [], "script": """const done = arguments[0];
        const wait = () => window.found ? done(window.found) : setTimeout(wait, 50); wait()"""})  # fmt: skip


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> Path:
    """The page of an audit."""
    here = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BDIFF_CACHE", str(here / "cache"))
        patch.chdir(here)
        assert cli.command(["audit", str(saved(here / "theirs")), *QUICK, "--out", "audit"]) in (0, 3)
    return here / "audit/report.html"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_serious_stands_in_the_way_of_readers(tmp_path, site, audited, browser, axe, width, scheme):  # noqa: F811
    figures = (*FIGURES, "inverted_trigger", "repaired_clean")
    pages = [write_run_page(made(tmp_path / "run", figures=figures, **DEFENDED)), sweep(tmp_path / "sweep")]
    pages += [audited, *site[1].glob("*.html"), *site[1].glob("cells/*.html"), *site[1].glob("results/*.html")]
    assert len(pages) > 15
    wrong = {}
    for page in pages:
        found = violations(browser, axe, page, width, scheme)
        if serious := [one for one in found if one["impact"] in ("serious", "critical")]:
            wrong[page.name] = serious
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.mark.slow
def test_axe_sees_what_is_wrong_with_a_page(tmp_path, browser, axe):
    """So that the check above means something."""
    page = tmp_path / "wrong.html"
    page.write_text('<!doctype html><title>.</title><img src="data:,"><p style="color:#ccc">pale')
    rules = {one["rule"] for one in violations(browser, axe, page, 390)}
    assert {"image-alt", "color-contrast", "html-has-lang"} <= rules
