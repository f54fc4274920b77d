"""The stages of a run: each is kept under a key of all that it depends on, and built once for all runs that ask."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from bdiff.common.device import open_device
from bdiff.common.versions import VERSION
from bdiff.diffusion.history import read_history
from bdiff.store import artifacts, provenance, threads
from bdiff.store.artifacts import Stage
from bdiff.tracker.none import NoTracker

log = logging.getLogger(__name__)


class Stages:
    """What has been built and reused in a run, on one device, in the folder `root`; the tracker is told of it."""

    def __init__(self, root: Path, device: str, tracker: NoTracker):
        self.root, self.tracker = root, tracker
        self.accelerator = open_device(device)
        self.device = self.accelerator.device
        self.seconds: dict[str, float] = {}
        self.keys: dict[str, str] = {}
        self.reused: list[str] = []
        self.started = False  # whether any stage had to be built
        #: by the name of every stage that was met, reused or not: what made it
        self.provenance: dict[str, dict[str, Any]] = {}
        self.code = provenance.code()
        self.clock: artifacts.Clock  # of the stage that is being built

    @property
    def main(self) -> bool:
        """Whether this is the first of the processes, which writes what there is to write."""
        return bool(self.accelerator.is_main_process)

    @contextmanager
    def missing(self, stage: Stage, name: str | None = None) -> Iterator[bool]:
        """As `building`, for a stage that the first process builds alone: yields whether it has to, here."""
        with self.building(stage, name) as missing:
            yield missing and self.main

    @contextmanager
    def training(self, stage: Stage, name: str) -> Iterator[bool]:
        """As `building`, for a stage that trains a model by all processes: a reused one's history is recorded too."""
        with self.building(stage, name) as missing:
            yield missing
            if not missing and self.main:
                for row in read_history(stage.folder / "history.jsonl"):
                    self.record(name, row)

    def stage(self, name: str, **parts: Any) -> Stage:
        """Return the stage `name` made from `parts`."""
        return artifacts.stage(self.root, name, VERSION[name], **parts)

    @contextmanager
    def building(self, stage: Stage, name: str | None = None) -> Iterator[bool]:
        """Hold the stage's lock on behalf of all processes; yields whether it still has to be built.

        The run's record calls it `name`, where one run has several stages of a kind.
        """
        name = name or stage.name
        main = self.accelerator.is_main_process
        with artifacts.lock(stage.folder.with_suffix(".lock")) if main else nullcontext():
            if main and stage.manifest is None:  # before the others may write there
                artifacts.sweep(stage.folder)
                (stage.folder / "manifest.json").unlink(missing_ok=True)  # a damaged one
                threads.begin(stage.folder)
            self.accelerator.wait_for_everyone()
            if stage.manifest is None:
                self.started = True
                with threads.kept(stage.folder), artifacts.Clock(stage.folder, main) as self.clock:
                    yield True
            else:
                if name not in self.keys:  # or it was met earlier in this run
                    log.info("%s: reused %s", name, stage.folder)
                    self.reused.append(name)
                yield False
            self.accelerator.wait_for_everyone()
        finished = stage.manifest
        assert finished is not None, f"{stage.name} left no manifest"
        self.keys[name], self.seconds[name] = stage.key, finished["seconds"]
        about = {what: finished[what] for what in ("key", "seconds", "finished")}
        self.provenance[name] = about | finished.get("made_by", {})  # which manifests of before lack

    def record(self, name: str, row: dict[str, Any]) -> None:
        """Pass a row of the history of the training `name` on to the tracker."""
        self.tracker.log({f"{name}/{what}": value for what, value in row.items()}, row["step"])

    def finish(self, stage: Stage, **facts: Any) -> None:
        """Write the manifest of the stage that is being built, with what made it; by the first process."""
        if self.accelerator.is_main_process:
            made = {
                **self.code,
                "versions": provenance.versions(),
                "device": provenance.device_name(self.device),
                "precision": provenance.precision_of(stage.parts),
                "threads": torch.get_num_threads(),
                "processes": self.accelerator.num_processes,
            }
            stage.finish(self.clock.seconds, made_by=made, **facts)
