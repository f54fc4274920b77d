"""What a request asks of a dataset's pixels, and where in the cache these lie. Torch-free."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bdiff.data.sources import Source
from bdiff.store import artifacts

VERSION = 2  # of the decoding: raise it when the same picture would give other pixels


@dataclass(frozen=True)
class PixelRequest:
    """All of a request that decides on the pixels."""

    size: int  # pixels, of the square that pictures are cropped and resized to
    channels: int  # 1 grey, 3 RGB
    split: str  # train, test or all
    limit: int | None  # a subset of so many images, drawn by the seed; None takes all
    seed: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W) of one image."""
        return self.channels, self.size, self.size

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the pixels, beside their source; the seed is part of it only where there is a limit."""
        facts = asdict(self)
        return {name: facts[name] for name in facts if self.limit is not None or name not in ("limit", "seed")}

    def stage(self, source: Source, cache: Path) -> artifacts.Stage:
        """Return the stage below `cache` that holds, or will hold, the decoded pixels of `source`."""
        return artifacts.stage(cache, "data", VERSION, source=source.identity, **self.key)

    def fingerprint(self, **images: str) -> str:
        """Return 16 hex digits that images are known by: of their `content` or `listing`, and of this request."""
        return artifacts.digest({**images, **self.key})

    def capacity(self, memory: float) -> int:
        """Return how many images fit in `memory` GiB; more than that are streamed."""
        return int(memory * 2**30 / (self.channels * self.size * self.size))
