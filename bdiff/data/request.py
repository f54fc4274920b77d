"""The settings of a request that determine a dataset's pixels, and their place in the cache. Torch-free."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bdiff.data.sources import Source
from bdiff.store import artifacts

VERSION = 2  # of the decoding: increment it when the same picture would give other pixels


@dataclass(frozen=True)
class PixelRequest:
    """The settings of a request that determine the pixels."""

    size: int  # pixels, of the square that pictures are cropped and resized to
    channels: int  # 1 grey, 3 RGB
    split: str  # train, test or all
    limit: int | None  # a subset of this many images, drawn by the seed; None takes all
    seed: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W) of one image."""
        return self.channels, self.size, self.size

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the pixels, besides their source; the seed is part of it only with a limit."""
        facts = asdict(self)
        return {name: facts[name] for name in facts if self.limit is not None or name not in ("limit", "seed")}

    def stage(self, source: Source, cache: Path) -> artifacts.Stage:
        """Return the stage below `cache` that holds, or will hold, the decoded pixels of `source`."""
        return artifacts.stage(cache, "data", VERSION, source=source.identity, **self.key)

    def fingerprint(self, **images: str) -> str:
        """Return 16 hex digits that identify images: over their `content` or `listing`, and this request."""
        return artifacts.digest({**images, **self.key})

    def capacity(self, memory: float) -> int:
        """Return how many images fit in `memory` GiB; more than that are streamed."""
        return int(memory * 2**30 / (self.channels * self.size * self.size))
