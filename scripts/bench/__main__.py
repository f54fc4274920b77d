"""How fast bdiff's loops are, beside the bare network and what a user would run instead, in one process and in turn.

    python scripts/bench [training sampling ...] [--network digits cifar10_small]

Each rate and ratio is the median of five rounds with the least and the largest beside it, in results/bench/<name>.json;
seconds of `scaling` are the least of three.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT / "scripts")  # not this folder, whose names are those of other modules

from bdiff.store import results  # noqa: E402
from bdiff.store.provenance import device_name, versions  # noqa: E402
from bench.all import BENCHES  # noqa: E402
from bench.subject import SUBJECTS, subject  # noqa: E402

#: benchmarks that no network of ours has a part in
ONCE = ("fid", "streaming", "scaling", "sweeps")


def main() -> None:
    """Take the figures that are asked for, print them, and keep each in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHES)}; all if none is named")
    parser.add_argument("--network", nargs="+", choices=SUBJECTS, default=["digits", "cifar10_small"])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    asked = parser.parse_args()
    if wrong := [name for name in asked.names if name not in BENCHES]:
        parser.error(f"{wrong[0]} is no benchmark: choose from {', '.join(BENCHES)}")
    for name in asked.names or BENCHES:
        for network in asked.network[:1] if name in ONCE else asked.network:
            on = subject(network, asked.device, asked.precision)
            found = BENCHES[name](on)
            label = name if name in ONCE else f"{name}-{network}"
            for metric, value in found.metrics.items():
                if not metric.endswith(("_low", "_high")):
                    print(f"{label:28} {metric:32} {value:12.4g}", flush=True)
            results.write(
                asked.out / f"{label}.json", found.config, found.metrics, device=device_name(on.device), protocol={},
                provenance={name: {"versions": versions()}}, name=label, **found.more,
            )  # fmt: skip


if __name__ == "__main__":
    main()
