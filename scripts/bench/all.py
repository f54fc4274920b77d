"""The benchmarks by name, each at the size that suits the machine."""

import os
from collections.abc import Callable

from bench.certification import certification
from bench.fid import fid
from bench.inversion import inversion
from bench.kernels import kernels
from bench.memory import memory
from bench.sampling import sampling
from bench.scaling import scaling
from bench.streaming import streaming
from bench.subject import Subject
from bench.sweeps import sweeps
from bench.timing import Figures
from bench.training import training


def size(on: Subject, tiny: int, cpu: int, cuda: int) -> int:
    """Return the number for a miniature, a CPU or a card."""
    return tiny if on.tiny else cuda if on.device.type == "cuda" else cpu


BENCHES: dict[str, Callable[[Subject], Figures]] = {
    "training": lambda on: training(on, size(on, 8, 128, 512)),
    "training_small_batch": lambda on: training(on, size(on, 4, 32, 128)),
    "sampling": lambda on: sampling(on, size(on, 8, 128, 512)),
    "inversion": inversion,
    "certification": lambda on: certification(on, size(on, 2, 4, 16), size(on, 16, 256, 1000), size(on, 8, 128, 500)),
    "fid": lambda on: fid(on, size(on, 4, 100, 1000)),
    "streaming": lambda on: streaming(on, size(on, 32, 1500, 2000), workers=min(8, os.cpu_count() or 1)),
    "scaling": scaling,
    "sweeps": lambda on: sweeps(size(on, 2, 12, 12)),
    "profile": lambda on: kernels(on, size(on, 8, 64, 128)),
    "memory": lambda on: memory(on, size(on, 32, 32, 64)),
}
