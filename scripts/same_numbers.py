"""Check that a change preserves all numbers: tiny runs of each attack, defense, sampler etc. against an earlier commit.

    python scripts/same_numbers.py --write before.json     at the commit before
    python scripts/same_numbers.py --against before.json   at the commit after, on the same machine

On a CPU the metrics must be bit-identical. `--default` includes the default run, which takes some minutes.
Exit code 1 if a number differs, or a run fails.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from tiny import ATTACKS, DEFENSES, OTHERS, TINY  # noqa: E402

#: how the names of durations begin
TIMES = ("seconds",)


def requests(default: bool) -> dict[str, list[str]]:
    """Return the overrides of every run by name."""
    samplers = sorted(path.stem for path in (ROOT / "conf" / "sampler").glob("*.yaml"))
    found = {f"attack={name}": [f"attack={name}", *words] for name, words in ATTACKS.items()}
    found |= {f"defense={name}": [f"defense={name}", *words] for name, words in DEFENSES.items()}
    found |= {f"sampler={name}": [f"sampler={name}", "sample.steps=10"] for name in samplers}
    found |= OTHERS
    found = {name: [*TINY, "train.precision=fp32", "sample.precision=fp32", *words] for name, words in found.items()}
    return found | ({"the default run": []} if default else {})


def metrics(name: str, words: list[str], home: Path) -> dict[str, float] | str:
    """Return the numbers of a run, or the last line of its output."""
    place = home / re.sub(r"\W", "_", name)
    fixed = [f"paths.outputs={home}/outputs", f"paths.cache={home}/cache", "runtime.threads=1", "tracker=none"]
    command = [sys.executable, "-m", "bdiff", "run", *words, *fixed, f"hydra.run.dir={place}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        return (done.stderr.splitlines() or ["no word"])[-1]
    found = json.loads((place / "metrics.json").read_text())["metrics"]
    return {key: value for key, value in found.items() if not key.rpartition("/")[2].startswith(TIMES)}


def main() -> int:
    """Run all and write or compare the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--against", type=Path, metavar="FILE")
    parser.add_argument("--default", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = {name: metrics(name, words, Path(home)) for name, words in requests(args.default).items()}
    failed = [f"{name}: {line}" for name, line in found.items() if isinstance(line, str)]
    print(*failed, sep="\n", end="\n" if failed else "")
    if args.write:
        args.write.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if args.against is None:
        return 1 if failed else 0
    before = json.loads(args.against.read_text())
    different = 0
    for name in before | found:
        one, other = before.get(name), found.get(name)
        if one == other:
            continue
        different += 1
        if isinstance(one, dict) and isinstance(other, dict):
            for key in sorted({*one, *other}):
                if one.get(key) != other.get(key):
                    print(f"{name}: {key} was {one.get(key)}, is {other.get(key)}")
        else:
            was, now = (found if isinstance(found, str) else "done" for found in (one, other))
            print(f"{name}: was {was}, is {now}")
    print(f"{len(found)} runs, {different} differ")
    return 1 if different or failed else 0


if __name__ == "__main__":
    sys.exit(main())
