"""Weights & Biases, offline unless the user is logged in. Its failures are warnings and never end a run.

wandb runs in a separate process (wandb_process.py): importing it and opening a run take seconds in parallel with the
run, a host that does not answer blocks nothing, and a run that is killed is still closed, as a failed one.
"""

import base64
import io
import json
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

from PIL import Image

from bdiff.config.rules import one_of
from bdiff.store import artifacts
from bdiff.tracker.none import NoTracker
from bdiff.tracker.wandb_process import DONE

if TYPE_CHECKING:  # a run starts wandb's process before it imports torch
    from torch import Tensor

log = logging.getLogger(__name__)

ROWS = 16  # of a table of samples
MODES = ("auto", "online", "offline", "disabled")
PATIENCE = 10  # seconds that a finished run waits for wandb at most, e.g. for an unreachable host


class WandbTracker(NoTracker):
    """A wandb run."""

    def __init__(
        self,
        project: Annotated[str, "wandb's project"],
        entity: Annotated[str | None, "wandb's user or team; null for the user's own"],
        group: Annotated[str | None, "wandb's group of runs; null: the jobs of a sweep are one"],
        mode: Annotated[str, one_of(*MODES), "auto is online if the user is logged in, else offline"],
        tags: Annotated[list[str], "wandb's tags"],
    ):
        self.options = {"project": project, "entity": entity, "group": group, "tags": list(tags)}
        self.mode = os.environ.get("WANDB_MODE", mode) if mode == "auto" else mode
        self.process: subprocess.Popen[str] | None = None
        self.reader: threading.Thread | None = None
        self.attempts: IO[str] | None = None  # the file with the run's id, held while the run lasts

    def prepare(self) -> None:
        """Start wandb's process, in a session of its own, so that Ctrl-C reaches only the run, which then closes it."""
        if self.mode == "disabled":
            return
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bdiff.tracker.wandb_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=os.environ | {"WANDB_SILENT": "true"},
        )
        self.reader = threading.Thread(target=relay, args=(self.process,), daemon=True)
        self.reader.start()

    def start(
        self,
        name: str,
        config: dict[str, Any],
        folder: Path,
        group: str | None = None,
        attempts: Path | None = None,
    ) -> None:
        """Open the run, or go on with the one of an earlier attempt; its files are in `folder`/wandb."""
        if self.process is None:
            return
        options = {**self.options, "name": name, "job_type": "run", "config": config, "dir": str(folder.absolute())}
        options["group"] = self.options["group"] or group
        if attempts:
            with warned():
                options["id"] = self.shared_id(attempts)
        self._send("start", mode=self.mode, options=options)

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Record numbers; training steps are logged as `train/step`, since stages may be replayed."""
        self._send("log", values=values if step is None else {**values, "train/step": step})

    def picture(self, name: str, path: Path) -> None:
        """Record an image file."""
        self._send("picture", name=name, path=str(path.absolute()))

    def samples(self, kinds: "Mapping[str, Tensor]") -> None:
        """Record the first images of each kind as a table with a row for each."""
        if self.process is None:
            return
        count = min(ROWS, *map(len, kinds.values()))
        rows = [[encoded(images[row]) for images in kinds.values()] for row in range(count)]
        self._send("samples", kinds=[*kinds], rows=rows)

    def conclude(self, metrics: dict[str, float]) -> None:
        """Set the run's summary."""
        self._send("conclude", metrics=metrics)

    def finish(self, failed: bool) -> None:
        """Close the run; an exit code of 1 marks a failed one. Returns when it is taken, or after `PATIENCE`."""
        if self.attempts:
            with warned(), self.attempts:
                if not failed:
                    Path(self.attempts.name).unlink(missing_ok=True)
            self.attempts = None
        self._send("finish", exit_code=int(failed))
        if self.process is None or self.reader is None:
            return
        self.reader.join(PATIENCE)
        if self.reader.is_alive():
            log.warning("wandb: did not take all of this run within %d s, and does not get the rest", PATIENCE)
            self.process.kill()
        self.process = None

    def shared_id(self, path: Path) -> str:
        """Return the id of an earlier attempt at the run, which is kept at `path`, else a new one, which is then kept.

        While another process holds the file, as an attempt at the same time, this run is another one.
        """
        self.attempts, new = artifacts.claim(path), secrets.token_hex(4)
        if self.attempts is None:
            return new
        if kept := path.read_text():
            return kept
        self.attempts.write(new)
        self.attempts.flush()
        return new

    def _send(self, what: str, **about: Any) -> None:
        """Send a command to wandb's process; ignored if it has ended, which it has logged itself."""
        if self.process is None or self.process.stdin is None:
            return
        try:
            self.process.stdin.write(json.dumps({"do": what, **about}) + "\n")
            self.process.stdin.flush()
        except OSError:
            log.debug("wandb's process has ended")
            self.process.stdin = None


@contextmanager
def warned() -> Iterator[None]:
    """Log a warning if the file with the run's id cannot be used."""
    try:
        yield
    except OSError as error:
        log.warning("wandb: further attempts at this run will be runs of their own (%s)", error)


def encoded(image: "Tensor") -> str:
    """Return an image, uint8 (C,H,W), as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def relay(process: subprocess.Popen[str]) -> None:
    """Log the lines that wandb's process prints, each a level and a message, until it is done."""
    assert process.stdout is not None
    for line in process.stdout:
        level, _, message = line.strip().partition(" ")
        if level == DONE:
            return
        log.log(getattr(logging, level), "wandb: %s", message)
    log.warning("wandb: its process has ended early, with exit code %d", process.wait())
