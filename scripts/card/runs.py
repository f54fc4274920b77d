"""Complete runs: a base model, BadDiffusion on it, detections and removal of both, DIFF2 against purification."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable

from card.kept import keep

#: assumed training steps per second of the base model, until the engine has measured them; and its batch size
RATE, BATCH = 8.0, 256
BASE_SHARE = 0.75  # fraction of the base's time for training; the rest is for sampling and measuring

COMMON = {
    False: [
        "data=cifar10", "metric/fid=classifier", "pretrain=cifar10", f"pretrain.train.batch_size={BATCH}",
        "pretrain.train.warmup=500", "pretrain.train.ema=0.999", "train.batch_size=256", "sample.count=2048",
        "sample.batch_size=512", "sample.steps=200", "trigger=box_14", "target=corner", "runtime.log_every=50",
        "classifier.train.steps=1000",
    ],
    True: [
        "data=digits", "data.limit=64", "model.unet.block_out_channels=[8,8,8]", "pretrain=digits",
        "pretrain.train.batch_size=16", "train.batch_size=16", "sample.count=16", "sample.batch_size=16",
        "sample.steps=4", "classifier.train.steps=5",
    ],
}  # fmt: skip
BAD = {False: ["attack=baddiffusion", "attack.poison_rate=0.1", "train.steps=1500"], True: ["train.steps=6"]}
SHORT = {
    "purediffusion": {False: [], True: ["defense.steps=2", "defense.probes=0", "defense.restarts=1",
                                        "defense.batch=2"]},
    "elijah": {False: [], True: ["defense.steps=2", "defense.batch=4"]},
    "terd": {False: ["defense.steps=600", "defense.refine_steps=30"],
             True: ["defense.steps=2", "defense.refine_steps=1", "defense.batch=2", "defense.ddim_steps=2"]},
}  # fmt: skip
REMOVAL = {False: ["defense.removal.train.steps=300"], True: ["defense.removal.train.steps=2"]}
DIFF2 = {
    False: ["attack=diff2_cifar10", "trigger=universal", "classifier=resnet18", "classifier.train.steps=3000",
            "train.steps=1000", "train.batch_size=128", "defense=purification_cifar10", "defense.images=256",
            "defense.batch_size=256", "sample.count=512"],
    True: ["attack=diff2", "trigger=universal", "attack.t=[3]", "attack.steps=1", "train.steps=2",
           "classifier=resnet18", "classifier.train.steps=2", "defense=purification", "defense.t=3", "defense.images=4",
           "defense.adversary.steps=2"],
}  # fmt: skip


def clean(tiny: bool) -> list[str]:
    """Return the overrides for the base model without an attack."""
    return ["attack=none", "train.steps=0"]


#: the overrides of each run besides COMMON, by whether it is tiny
RUNS: dict[str, Callable[[bool], list[str]]] = {
    "base": clean,
    "baddiffusion": lambda tiny: BAD[tiny],
    **{f"{audit}_backdoored": lambda tiny, a=audit: [*BAD[tiny], f"defense={a}", *SHORT[a][tiny]] for audit in SHORT},
    "removal": lambda tiny: [*BAD[tiny], "defense=purediffusion", *SHORT["purediffusion"][tiny], "defense.repair=true",
                             *REMOVAL[tiny]],
    **{f"{audit}_base": lambda tiny, a=audit: [*clean(tiny), f"defense={a}", *SHORT[a][tiny]] for audit in SHORT},
    "diff2": lambda tiny: DIFF2[tiny],
}  # fmt: skip


def step(name: str) -> Callable[[argparse.Namespace], None]:
    """Return the step that executes the run `name`; exit code 3 without data."""

    def carry_out(asked: argparse.Namespace) -> None:
        if asked.data is None and not asked.tiny:
            print("no --data was given")
            sys.exit(3)
        folder = asked.state / "runs" / name
        words = [*COMMON[asked.tiny], f"pretrain.train.steps={base_steps(asked)}", *RUNS[name](asked.tiny)]
        words += [] if asked.tiny else [f"data.path={asked.data}"]
        words += [f"runtime.device={asked.device}", "tracker=none", f"paths.outputs={asked.state}/outputs",
                  f"paths.cache={asked.state}/cache", f"hydra.run.dir={folder}"]  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "bdiff", "run", *words])
        if done.returncode:
            sys.exit(f"bdiff run ended with exit code {done.returncode}")
        record = json.loads((folder / "metrics.json").read_text())
        keep(asked.state, name, {"overrides": words, "seconds": record["seconds"]}, record["metrics"],
             device=record["device"], protocol=record["protocol"], provenance=record["provenance"])  # fmt: skip
        (asked.state / "sheets").mkdir(exist_ok=True)
        for picture in ("overview", "triggers", "repaired_triggered", "shield"):
            if (path := folder / "figures" / f"{picture}.png").exists() and path.stat().st_size < 16 * 2**20:
                shutil.copy(path, asked.state / "sheets" / f"{name}-{picture}.png")

    return carry_out


def base_steps(asked: argparse.Namespace) -> int:
    """Return the training steps of the base model: as many as the first call's time allows, then the same."""
    path = asked.state / "base_steps.json"
    if not path.exists():
        figure = asked.state / "results" / "training.json"
        rate = RATE
        if figure.exists() and (images := json.loads(figure.read_text())["metrics"].get("bdiff")):
            rate = images / BATCH
        steps = 4 if asked.tiny else max(200, int(rate * 60 * asked.minutes * BASE_SHARE))
        path.write_text(json.dumps(steps))
    return json.loads(path.read_text())
