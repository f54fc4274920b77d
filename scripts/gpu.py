"""Everything worth knowing of a machine with a CUDA card, in parts that are bounded in time and kept as they end.

    python scripts/gpu.py --minutes 10 --out DIR [--data cifar10.zip] [--state outputs/gpu]
    python scripts/gpu.py unpack DIR/results.json        # into results/gpu/, one JSON per result

It uses the Python that calls it and installs nothing; a second call goes on where the first one stopped. DIR gets
results.json, log.txt and at most six contact sheets. `--device cpu --tiny` is a miniature of it.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from card import site  # noqa: E402


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="nothing, or: unpack <results.json>; step <name> is the program's own")
    parser.add_argument("--minutes", type=float, default=25.0, help="it stops by itself before these are over")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu-out", help="gets what is to be kept")
    parser.add_argument("--state", type=Path, default=ROOT / "outputs" / "gpu", help="where a second call goes on")
    parser.add_argument("--data", type=Path, help="CIFAR-10, as data.path takes it; without it no models are trained")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks on the digits, a few steps of each")
    return parser.parse_args()


def main() -> int:
    """Do what is asked for, and return the exit code: 1 if something failed."""
    asked = arguments()
    if lacking := site.missing():
        print(f"{sys.executable} lacks {', '.join(lacking)}: nothing is installed here", file=sys.stderr)
        return 2
    site.use(ROOT, asked.state.resolve())  # before anything of bdiff is imported
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
    print(f"{' '.join(asked.what)} is no command: see --help", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
