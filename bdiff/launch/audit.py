"""One audit: its folder, its log, its audit.json and its page."""

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bdiff.common.errors import RequestError, RunError
from bdiff.diffusion.schedulers import start_marks
from bdiff.launch.job import examine_folder, setup_logging
from bdiff.model.checkpoint import weights_digest
from bdiff.model.facts import Facts
from bdiff.pipeline import audit
from bdiff.pipeline.result import Figure, StageResult
from bdiff.report.audit import called, verdict, write_audit_page
from bdiff.report.gallery import show
from bdiff.report.runs import PAGE
from bdiff.store import artifacts, provenance
from bdiff.tracker.none import NoTracker

SCHEMA = "audit/1"
RECORD = "audit.json"
STEPS = "steps.json"  # what a budget has chosen, until the audit has ended


def place(outputs: Path, facts: Facts) -> Path:
    """Return the folder of a model's audits below `outputs`: other weights and classes have others."""
    digest = weights_digest(str(facts.folder)) or ""
    label = "" if facts.label is None else f"-class{facts.label}"
    return outputs / "audits" / f"{called(facts.name)}-{digest[:8]}{label}"


def begun(folder: Path, command: str) -> dict[str, dict[str, int]] | None:
    """Return the steps that a budget has chosen for each method of an audit that was killed; None if there was none."""
    kept = artifacts.recall(folder / STEPS, dict[str, Any]())
    return kept["steps"] if kept.get("command") == command else None


def audit_in(
    folder: Path,
    facts: Facts,
    configs: Mapping[str, DictConfig],
    repair: Path | None,
    command: str,
    steps: Mapping[str, Mapping[str, int]] | None = None,  # that a budget has chosen
) -> dict[str, Any]:
    """Audit a model by every method of `configs`; write audit.json and the page into `folder`, and return the former.

    `repair` is a folder for a repaired copy, by what the first method inverts. Raises RequestError if another process
    is using the folder, or if somebody's own pictures or page are there.
    """
    examine_folder(folder, ("figures", PAGE), RECORD, "audit", "--out")
    held = artifacts.claim(folder / "run.log")
    if held is None:
        raise RequestError(f"another audit is using {folder}: wait for it, or set --out to another folder")
    began = time.monotonic()
    with held:
        setup_logging(folder / "run.log", logging.INFO)
        if steps:
            artifacts.write_json(folder / STEPS, {"command": command, "steps": steps})
        record, figures, weights = audited(folder, facts, configs, repair)
        record |= {"command": command, "page": str(folder / PAGE), "seconds": round(time.monotonic() - began, 3)}
        artifacts.write_json(folder / RECORD, record)  # first, as it says whose folder this is
        show(figures, folder / "figures", NoTracker())
        write_audit_page(folder, record)
        if repair and weights:  # at the end, and whole: an audit that was killed goes on, and takes no other's folder
            copied(weights, repair, folder / PAGE)
        (folder / STEPS).unlink(missing_ok=True)
    return record


def copied(weights: Path, repair: Path, page: Path) -> None:
    """Copy the repaired model to `repair`. RequestError or RunError, which name the `page`, if it cannot be."""
    where = f"the repaired model is in {weights}, and the verdict in {page}"
    if repair.exists():
        raise RequestError(f"--repair {repair} was made meanwhile: {where}")
    try:
        with artifacts.atomic(repair) as scratch:
            shutil.copytree(weights, scratch)
    except OSError as error:
        raise RunError(f"--repair {repair} cannot be written ({error.strerror or error}): {where}") from error


def audited(
    folder: Path, facts: Facts, configs: Mapping[str, DictConfig], repair: Path | None
) -> tuple[dict[str, Any], dict[str, Figure], Path | None]:
    """Return what audit.json says of a model, its pictures, of which `folder` has none any more, and a repaired copy.

    That is the folder of the removal's own stage; None without `repair`.
    """
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for name in (PAGE, RECORD):  # or an audit that fails would leave the verdict of the one before
        (folder / name).unlink(missing_ok=True)
    figures: dict[str, Figure] = {}
    methods, repaired, model, device = {}, None, None, None
    weights: Path | None = None
    for name, config in configs.items():
        subject, after = audit.subject(config, facts), StageResult()
        found = audit.audit(subject, facts)
        methods[name], model, device = audit.findings(found, config), found.model, subject.stages.device
        if repair and repaired is None:
            weights, after = audit.repaired(subject, found)
            repaired = {"folder": str(repair), "metrics": after.metrics}
        prefix = f"{name} " if len(configs) > 1 else ""
        figures |= {f"{prefix}{what}": figure for what, figure in audit.pictures(found, after).items()}
    assert model is not None and model.manifest is not None, "no method was asked for"
    record = {
        "schema": SCHEMA,
        "model": {
            "name": facts.name,
            "folder": str(facts.folder),
            "digest": model.parts["weights"],
            "shape": list(facts.shape),
            "schedule": facts.schedule,
            "prediction": facts.prediction,
            "class": facts.label,
            "classes": facts.classes,
            "weights": model.manifest["weights"],
            "strange": model.manifest["strange"],
            "unread": facts.unread,
            "unjudged": facts.unjudged,
            "remote": facts.remote,
            "marks": start_marks(facts.schedule),
        },
        "verdict": verdict(methods),
        "methods": methods,
        "repaired": repaired,
        "device": provenance.device_name(device),
        "versions": provenance.versions(),
        **provenance.code(),
    }
    return record, figures, weights
