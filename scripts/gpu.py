"""Tests and benchmarks on a machine with a CUDA GPU, in parts with a time limit, each saved when it ends.

    python scripts/gpu.py --minutes 10 --out DIR [--data cifar10.zip] [--state outputs/gpu]
    python scripts/gpu.py unpack DIR/results.json        # into results/gpu/, one JSON per result

It uses the Python that runs it and installs nothing; a second call resumes where the first one stopped. DIR gets
results.json, log.txt and at most six contact sheets. `--device cpu --tiny` is a miniature of it.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from card import site  # noqa: E402


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="nothing, or: unpack <results.json>; step <name> is internal")
    parser.add_argument("--minutes", type=float, default=25.0, help="time limit")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu-out", help="folder for the results")
    parser.add_argument(
        "--state", type=Path, default=ROOT / "outputs" / "gpu", help="folder from which a second call resumes"
    )
    parser.add_argument("--data", type=Path, help="CIFAR-10, as for data.path; without it no models are trained")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks on the digits, a few steps of each")
    return parser.parse_args()


def main() -> int:
    """Run the command, and return the exit code: 1 if something failed."""
    asked = arguments()
    if lacking := site.missing():
        print(f"{sys.executable} lacks {', '.join(lacking)}: nothing is installed here", file=sys.stderr)
        return 2
    site.use(ROOT, asked.state.resolve())  # before any import of bdiff
    match asked.what:
        case []:
            from card.plan import carry_out

            return carry_out(asked)
        case ["step", name]:
            from card.steps import STEPS

            STEPS[name](asked)
            return 0
        case ["unpack", path]:
            from card.kept import unpack

            return unpack(Path(path), ROOT)
    print(f"{' '.join(asked.what)} is not a command: see --help", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
