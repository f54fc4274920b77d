"""Write one run's results as a small JSON: python scripts/record_result.py <run folder> results/<name>.json"""

import json
import sys
from pathlib import Path

import yaml

from bdiff.store import results


def main(run: Path, target: Path) -> None:
    """Write what others need for a comparison: the config, the provenance and the metrics."""
    record = json.loads((run / "metrics.json").read_text())
    if record["status"] != "done":
        sys.exit(f"{run} is {record['status']}, not done")
    overrides = yaml.safe_load((run / "overrides.yaml").read_text())
    results.write(
        target,
        yaml.safe_load((run / "config.yaml").read_text()),
        record["metrics"],
        device=record["device"],
        protocol=record["protocol"],
        provenance=record["provenance"],
        made={name: record[name] for name in ("commit", "version", "dirty")},
        name=record["name"],
        command=" ".join(["bdiff run", *overrides]),
        keys=record["keys"],
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
