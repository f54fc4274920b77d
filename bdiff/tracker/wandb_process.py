"""The process of a wandb run: it reads commands as lines of JSON, and prints messages for the log.

`python -m bdiff.tracker.wandb_process`. The end of its input closes the run, as a failed one by default.
"""

import base64
import io
import json
import os
import queue
import sys
import threading
from typing import Any

DONE = "DONE"  # the last message: all is written
TIMEOUT = 6  # seconds for a host to answer when a run is opened


def main() -> None:
    """Execute the lines of standard input until it ends, or until wandb fails."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=read, args=(lines,), daemon=True).start()
    run: Any = None
    exit_code = 1
    try:
        import wandb  # at once: it takes seconds, in parallel with the run's imports

        while (line := lines.get()) is not None:
            match json.loads(line):
                case {"do": "start", "mode": mode, "options": options}:
                    run = opened(mode, options)
                case {"do": "log", "values": values}:
                    run.log(values)
                case {"do": "picture", "name": name, "path": path}:
                    run.log({name: wandb.Image(path)})
                case {"do": "samples", "kinds": kinds, "rows": rows}:
                    run.log({f"samples/{'_'.join(kinds)}".replace(" ", "_"): table(kinds, rows)})
                case {"do": "conclude", "metrics": metrics}:
                    run.summary.update(metrics)
                case {"do": "finish", "exit_code": exit_code}:
                    break
    except ImportError as error:
        say("WARNING", f"cannot be imported ({error}): this run is not tracked; pip install wandb, or set tracker=none")
    except Exception as error:  # any failure of a tracker is only a warning
        say("WARNING", f"is off for the rest of this run ({type(error).__name__}: {error})")
    if run is not None:
        run.finish(exit_code=exit_code)
    say(DONE)


def read(lines: "queue.SimpleQueue[str | None]") -> None:
    """Read lines from standard input as they arrive, so that the run never waits for wandb; None at the end."""
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)


def opened(mode: str, options: dict[str, Any]) -> Any:
    """Return wandb's run in `mode`, offline if its host cannot be used. Prints where it goes before it is opened."""
    import wandb

    if mode == "auto":
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
    # wandb stages the images of tables there until they are sent, by default in a folder of the user's own
    os.environ.setdefault("WANDB_DATA_DIR", f"{options['dir']}/wandb")
    settings = wandb.Settings(console="off", init_timeout=TIMEOUT)
    if mode == "online":
        say("INFO", f"this run goes online, to project {options['project']} at {wandb.setup().settings.base_url}")
        try:
            return wandb.init(**options, mode="online", resume="allow", settings=settings)
        except wandb.Error as error:
            say("WARNING", f"cannot go online ({error})")
    say("INFO", f"this run is kept offline; to send it: wandb sync {options['dir']}/wandb/offline-run-*")
    return wandb.init(**options, mode="offline", settings=settings)


def table(kinds: list[str], rows: list[list[str]]) -> Any:
    """Return wandb's table of images, each a PNG in base64."""
    import wandb
    from PIL import Image

    def image(text: str) -> Any:
        return wandb.Image(Image.open(io.BytesIO(base64.b64decode(text))))

    return wandb.Table(["index", *kinds], [[index, *map(image, row)] for index, row in enumerate(rows)])


def say(level: str, message: str = "") -> None:
    """Print a line for the run's log."""
    print(level, " ".join(message.split()), flush=True)


if __name__ == "__main__":
    main()
