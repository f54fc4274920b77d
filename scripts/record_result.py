"""Write one run's figures as one small JSON: python scripts/record_result.py <run folder> results/<name>.json"""

import json
import sys
from pathlib import Path

import yaml

KEPT = ("name", "git", "device", "versions", "seconds", "protocol", "metrics", "keys")


def main(run: Path, target: Path) -> None:
    """Keep what another person needs to compare with: the request, where it ran, and what came out."""
    record = json.loads((run / "metrics.json").read_text())
    if record["status"] != "done":
        sys.exit(f"{run} is {record['status']}, not done")
    overrides = yaml.safe_load((run / "overrides.yaml").read_text())
    result = {"command": " ".join(["bdiff run", *overrides]), **{name: record[name] for name in KEPT}}
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
