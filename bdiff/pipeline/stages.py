"""The stages of a run: each is kept under a key of all that it depends on, and built once for all runs that ask."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bdiff.common.device import memory_errors, open_device
from bdiff.common.peers import Peers
from bdiff.common.progress import Meter, progress
from bdiff.common.versions import VERSION
from bdiff.diffusion.engine import Engine
from bdiff.diffusion.history import read_history
from bdiff.diffusion.mode import Costs, Mode, Work, choose, log_mode
from bdiff.diffusion.training import LoopConfig, Session
from bdiff.store import artifacts, provenance, threads
from bdiff.store.artifacts import GROWING, Stage
from bdiff.tracker.none import NoTracker

log = logging.getLogger(__name__)

STATE, BATCHES = GROWING

#: by the name of a stage: what to set where it runs out of memory
TRAINS = "lower runtime.micro_batch, which sums gradients over parts of a batch, or set runtime.recompute=true"
MEASURES = "lower metric.batch_size"
MEMORY_HINTS = {
    "train": TRAINS,
    "trigger": "set train.precision=bf16, or a smaller model.unet",
    "repair": TRAINS,
    "sample": "lower sample.batch_size",
    "audit": "set defense.checkpoint=true, or for an input check defense.inversion.checkpoint=true",
    "amplify": "set amplify.inversion.checkpoint=true",
    "shield": "lower defense.batch_size",
    "measure": MEASURES,
    "reference": MEASURES,
    "activations": MEASURES,
}


class HasEngine(Protocol):
    """A network that a stage asks, as `Denoiser` is one."""

    @property
    def engine(self) -> Engine:
        """What evaluates it."""

    def example(self, count: int) -> tuple[Tensor, ...]:
        """Return inputs of a call with `count` images."""


class Stages:
    """What has been built and reused in a run, on one device, in the folder `root`; the tracker gets every history."""

    #: whether stages are only looked up, see `bdiff.pipeline.planned`: what is read of their results may be missing
    planning = False

    def __init__(self, root: Path, device: str, tracker: NoTracker, loop: LoopConfig, costs: Costs):
        self.root, self.tracker, self.loop, self.costs = root, tracker, loop, costs
        self.accelerator = open_device(device)
        self.device = self.accelerator.device
        self.peers = Peers(self.accelerator.process_index, self.accelerator.num_processes)
        self.seconds: dict[str, float] = {}
        self.keys: dict[str, str] = {}
        self.reused: list[str] = []
        self.started = False  # whether any stage had to be built
        #: by the name of every stage that was met, reused or not: what made it
        self.provenance: dict[str, dict[str, Any]] = {}
        self.code = provenance.code()
        self.engines: list[tuple[str, Mode, Engine]] = []  # of the stage that is being built, with their purposes

    @property
    def main(self) -> bool:
        """Whether this is the first of the processes, which writes what there is to write."""
        return bool(self.accelerator.is_main_process)

    def stage(self, name: str, **parts: Any) -> Stage:
        """Return the stage `name` made from `parts`."""
        return artifacts.stage(self.root, name, VERSION[name], **parts)

    def once(
        self,
        stage: Stage,
        build: Callable[[], dict[str, Any]],  # leaves files in the stage's folder, returns facts for the manifest
        name: str | None = None,  # in the run's record, where one run has several stages of a kind
        together: bool = False,  # built by all processes, otherwise by the first one alone
        history: bool = False,  # a training, whose history is recorded even if the stage is reused
    ) -> dict[str, Any]:
        """Return the manifest of `stage`; where it is missing, it is built, finished and recorded first."""
        name = name or stage.name
        with self.locked(stage):
            if stage.manifest is None:
                self.started = True
                self.engines.clear()
                with threads.kept(stage.folder), artifacts.Clock(stage.folder, self.main) as clock:
                    if together or self.main:
                        hint = MEMORY_HINTS.get(stage.name, "lower its batch_size")
                        with memory_errors(name, self.device, hint):
                            facts = build()
                    self.keep_failures(stage)
                    if together:
                        self.accelerator.wait_for_everyone()
                    if self.main:
                        self.finish(stage, clock.seconds, facts)
            else:
                if name not in self.keys:  # or it was met earlier in this run
                    log.info("%s: reused %s", name, stage.folder)
                    self.reused.append(name)
                for row in read_history(stage.folder / "history.jsonl") if history and self.main else []:
                    self.record(name, row)
            if self.main:
                for growing in GROWING:
                    shutil.rmtree(stage.folder / growing, ignore_errors=True)
            self.accelerator.wait_for_everyone()
        manifest = stage.manifest
        assert manifest is not None, f"{stage.name} left no manifest"
        self.keys[name], self.seconds[name] = stage.key, manifest["seconds"]
        about = {what: manifest[what] for what in ("key", "seconds", "finished")}
        self.provenance[name] = about | manifest.get("made_by", {})  # which manifests of earlier versions lack
        return manifest

    def read(self, path: Path, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of this shape by its name in a file of a finished stage."""
        found = load_file(path)[name]
        assert found.shape == shape, (found.shape, shape)
        return found

    @contextmanager
    def locked(self, stage: Stage) -> Iterator[None]:
        """Hold the stage's lock on behalf of all processes, its folder without what killed writers left there."""
        with artifacts.lock(stage.folder.with_suffix(".lock")) if self.main else nullcontext():
            if self.main and stage.manifest is None:  # before the others may write there
                artifacts.sweep(stage.folder)
                (stage.folder / "manifest.json").unlink(missing_ok=True)  # a damaged one
                threads.begin(stage.folder)
            self.accelerator.wait_for_everyone()
            yield

    def keep_failures(self, stage: Stage) -> None:
        """Keep in the modes of a stage where the compiler failed in this process."""
        for purpose, mode, engine in self.engines:
            if engine.failure:
                replace(mode, reason=f"{mode.reason}; it failed at {engine.failure}").keep(stage.folder, purpose)

    def finish(self, stage: Stage, seconds: float, facts: dict[str, Any]) -> None:
        """Write the manifest of a stage that `seconds` of work built, with what made it."""
        modes = Mode.every(stage.folder)
        made = {
            **self.code,
            "versions": provenance.versions(),
            "device": provenance.device_name(self.device),
            "precision": provenance.precision_of(stage.parts),
            "threads": torch.get_num_threads(),
            "processes": self.accelerator.num_processes,
            "compiled": {purpose: asdict(mode) for purpose, mode in modes.items() if mode.difference is not None},
        }
        stage.finish(seconds, made_by=made, **facts)

    def settle(
        self, stage: Stage, asked: HasEngine, work: Work, purpose: str = "network", together: bool = False
    ) -> None:
        """Put a network's engine into the mode that the stage has for it, chosen here before its first step.

        `runtime.compile=false` is always heard: there has to be a way out.
        `purpose` tells the engines of a stage apart; networks that share the work have one. `together`: by all
        processes, which share the work too.
        """
        if together:
            work = replace(work, images=work.images // self.peers.count)
        mode = Mode.kept(stage.folder, purpose)
        if self.main:
            if mode is None:
                mode = choose(self.loop.compile, asked.engine, asked.example(work.batch), work, self.costs)
                who = stage.name if purpose == "network" else f"{stage.name}, {purpose}"
                log_mode(who, mode, self.loop.compile, work.calls)
            mode = mode.under(self.loop.compile)
            mode.keep(stage.folder, purpose)
        if together:
            self.accelerator.wait_for_everyone()
            mode = Mode.kept(stage.folder, purpose)
        assert mode is not None, f"{stage.folder} has no mode for {purpose}"
        if mode.compiled and asked.engine.batch is None:
            self.costs.use()
            asked.engine.compile(mode.batch, mode.gradients)
        self.engines.append((purpose, mode, asked.engine))

    def record(self, name: str, row: dict[str, Any]) -> None:
        """Pass a row of the history of the training `name` on to the tracker."""
        self.tracker.log({f"{name}/{what}": value for what, value in row.items()}, row["step"])

    def session(self, stage: Stage, name: str, settings: str = "train") -> Session:
        """Return where and how a stage trains by all processes, its history recorded under `name`.

        `settings` is the request's key of the training's config.
        """
        record = partial(self.record, name)
        return Session(stage.folder, self.loop, self.accelerator, name, record, self.costs, settings)

    def meter(self, name: str, total: int, unit: str) -> AbstractContextManager[Meter]:
        """Return a progress bar for `total` units of work."""
        return progress(name, total, unit=unit, every=self.loop.progress)


def unknown(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Return what stands for a tensor that the unfinished stage of `path` would leave: not a number, by its key."""
    payload = int(path.parent.name[:5], 16)  # 20 of the 22 bits that a float32 that is no number has to spare
    return torch.full(shape, 0x7FC00000 | payload, dtype=torch.int32).view(torch.float32)


def keep(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a file of a stage, atomically."""
    with artifacts.atomic(path) as scratch:
        save_file(tensors, scratch)
