"""`bdiff audit`: is a downloaded diffusion model backdoored? No data are needed."""

import json
import logging
import os
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bdiff.cli.shared import Parser, names
from bdiff.common.errors import RequestError, named
from bdiff.common.places import unwritable
from bdiff.common.progress import Screen, console
from bdiff.config.keys import resolved
from bdiff.config.options import group_options, own_settings
from bdiff.config.parts import describe
from bdiff.config.words import literal
from bdiff.library.request import METHOD, composed, overrides_of
from bdiff.model.facts import PREDICTIONS

EXAMPLES = """
  bdiff audit downloaded                              a diffusers folder
  bdiff audit google/ddpm-cifar10-32 --budget 20      of the hub, in 20 minutes
  bdiff audit downloaded --plan                       what it would cost
  bdiff audit downloaded --method terd,elijah steps=500     others, a setting
  bdiff audit downloaded --repair repaired --images pictures    and a repair

exit code: 0 nothing found (or scores only), 3 flagged, 1 failed,
           2 wrong request, 130 interrupted"""

FLAGGED = 3  # the exit code
BATCH = 64  # samples at a time, at most, with a repair or without, so that both share them
DETECTION = "bdiff.defense.base.Detection"
NOTHING = "nothing is left to do: an earlier audit's results are shown"
SETTABLE = ("defense.", "sample.", "runtime.", "paths.")  # what an audit reads of the settings with a dot
REPAIR = 400  # steps of a removal, however many pictures there are


def parser() -> Parser:
    """Return the parser of `bdiff audit`."""
    made = Parser("audit", __doc__, EXAMPLES, tables=False)
    made.add_argument("model", help="a diffusers folder, the folder of a run, or a hub id (owner/name)")
    made.add_argument("settings", nargs="*", metavar="key=value", help="settings of the detection, as in steps=100")
    made.add_argument(
        "--method", type=names, default=[METHOD], metavar="NAME,...", help=f"detections; default: {METHOD}"
    )
    made.add_argument(
        "--budget", type=float, metavar="MINUTES", help="take fewer steps than the method has, to end by then"
    )
    made.add_argument("--plan", action="store_true", help="say what it would cost, and start nothing")
    made.add_argument("--json", action="store_true", help="print audit.json, and nothing else, to standard output")
    made.add_argument("--out", type=Path, metavar="DIR", help="where the page goes; default: outputs/audits/<name>")
    made.add_argument("--repair", type=Path, metavar="DIR", help="write a repaired copy of the model to a new folder")
    made.add_argument("--images", metavar="PATH", help="for --repair: a folder or zip of clean pictures of its kind")
    made.add_argument("--removal", metavar="NAME", help="for --repair: an option of defense/removal; default: elijah")
    made.add_argument("--size", type=int, metavar="PX", help="of its images, if the checkpoint does not have it")
    made.add_argument(
        "--schedule", metavar="NAME", help="an option of schedule, if the checkpoint has no scheduler config"
    )
    made.add_argument(
        "--prediction", choices=PREDICTIONS, help="what it predicts, if the checkpoint has no scheduler config"
    )
    made.add_argument("--class", type=int, dest="label", metavar="K", help="of a class-conditional model; default: 0")
    made.add_argument("--seed", type=int, default=0, help="default: 0")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    made.add_argument("--quiet", action="store_true", help="no progress: warnings and the result only")
    return made


def audit(words: list[str]) -> int:
    """Execute `bdiff audit`; return its exit code. Raises RequestError for invalid arguments or models."""
    args = parser().parse_intermixed_args(words)
    if problems := wrong(args):
        raise RequestError(*problems)
    console.quiet_progress = args.quiet
    from bdiff.library.suspects import facts_of  # imports torch
    from bdiff.model import checkpoint

    schedule = own_settings("schedule", args.schedule) if args.schedule else None
    facts = facts_of(args.model, args.size, schedule, args.label, args.prediction)
    configs = {name: request(args, name, facts) for name in args.method}
    checkpoint.load(facts.folder)  # refused before anything is planned, if it holds more than tensors
    from bdiff.launch.audit import audit_in, begun, place
    from bdiff.launch.job import setup_logging
    from bdiff.pipeline import audit as stages
    from bdiff.store.threads import settle

    setup_logging(None, logging.WARNING)
    settle(next(iter(configs.values())).runtime.threads)
    repairing = args.method[:1] if args.repair else []  # a repair is by what the first method inverts
    folder = args.out or place(Path(next(iter(configs.values())).paths.outputs), facts)
    if args.repair and args.repair.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise RequestError(f"--repair {args.repair} is where the audit's page goes ({folder}): name another folder")
    command, steps = shlex.join(["bdiff", "audit", *words]), None
    if args.budget and (steps := begun(folder, command)):  # chosen before a kill: a new timing would choose others
        configs = {name: stages.with_steps(config, steps[name]) for name, config in configs.items()}
    elif args.budget:
        each = 60 * args.budget / len(configs)
        configs = {name: stages.within(config, facts, each, name in repairing) for name, config in configs.items()}
        steps = {name: stages.steps_of(config) for name, config in configs.items()}
    print_cost(configs, facts, repairing, args.plan or not args.quiet)
    if args.plan:
        return 0
    record = audit_in(folder, facts, configs, args.repair, command, steps)
    show(record, args.json)
    return FLAGGED if record["verdict"] == "flagged" else 0


def wrong(args: Any) -> list[str]:
    """Return what is wrong with the arguments."""
    lines = [f"{word} is not key=value: see bdiff audit --help" for word in args.settings if "=" not in word]
    heads = (*SETTABLE, "data.") if args.repair else SETTABLE
    keys = [word.partition("=")[0] for word in args.settings]
    lines += [f"{key} is not a setting of an audit: these start with {', '.join(heads)}"
              for key in keys if "." in key and not key.startswith(heads)]  # fmt: skip
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        lines.append("an audit is one process: start it without torchrun")
    if not args.method:
        lines.append(f"--method names no detection: leave it out for {METHOD}, or see docs/defenses.md")
    lines += [f"--method {name} is not known, or no detection: choose from {', '.join(sorted(detections()))}"
              for name in args.method if name not in detections()]  # fmt: skip
    if args.budget is not None and not args.budget > 0:
        lines.append(f"--budget {args.budget:g} must be above 0 minutes")
    if args.size is not None and args.size < 8:
        lines.append(f"--size {args.size} must be at least 8 px")
    if args.repair and not args.images:
        lines.append("--repair needs clean pictures: give them with --images PATH")
    if args.repair and args.repair.exists():
        lines.append(f"--repair {args.repair} exists already: give a new folder")
    if not args.repair and (args.images or args.removal):
        lines.append("--images and --removal are for --repair DIR")
    for option, folder in (("out", args.out), ("repair", args.repair)):
        if folder and (why := unwritable(folder)):
            lines.append(f"--{option} {folder} {why}: name another folder")
    for option, group in (("schedule", "schedule"), ("removal", "defense/removal")):
        given = getattr(args, option)
        if given and given not in (known := group_options()[group]):
            lines.append(f"--{option} {given} is not known (choose from {', '.join(sorted(known))})")
    return lines


@cache
def detections() -> list[str]:
    """Return the options of conf/defense that are detections, those of plugins among them."""
    targets = {name: own_settings("defense", name).get("_target_") for name in group_options()["defense"]}
    return [name for name, target in targets.items() if target and DETECTION in describe(target).bases]


def request(args: Any, method: str, facts: Any) -> DictConfig:
    """Return the checked config of an audit by one method. RequestError if it is invalid."""
    here = {"seed": args.seed, "runtime.device": args.device, "sample.batch_size": BATCH}
    # All timesteps: in fewer an ancestral sampler leaves the path that BadDiffusion's law keeps it on.
    words = [f"defense={method}", "sampler=ddpm", "sample.steps=${sampler.steps}"]
    words += overrides_of(facts.shape, facts.schedule, here)
    if args.repair:
        words += ["data=images", f"data.path={literal(args.images)}", f"defense/removal={args.removal or 'elijah'}"]
    words += [word if "." in word.partition("=")[0] else f"defense.{word}" for word in args.settings]
    with named("defense=", "--method "), named("data.path=", "--images "), composed(words) as config:
        found = resolved(config)
    removal = found.defense.removal
    if "images" in removal:
        removal.images = 1.0  # all that are given
    length = ("defense.removal.train.steps=", "defense.removal.train.epochs=")
    if "train" in removal and not any(word.startswith(length) for word in args.settings):
        removal.train.steps, removal.train.epochs = REPAIR, None
    return found


def print_cost(configs: dict[str, DictConfig], facts: Any, repairing: list[str], shown: bool) -> None:
    """Say what the audits will take, with a repair by the methods of `repairing`, if it is to be `shown`.

    Raises RequestError where an audit cannot be.
    """
    from bdiff.pipeline.audit import plan
    from bdiff.pipeline.estimate import total
    from bdiff.pipeline.planned import REUSED
    from bdiff.report.audit import cost_line

    planned = [row for name, config in configs.items() for row in plan(config.copy(), facts, name in repairing)]
    rows = {row.key: row for row in planned if row.state != REUSED}.values()
    if shown:
        console.print(cost_line(*total(rows)) if rows else NOTHING, soft_wrap=True)


def show(record: dict[str, Any], as_json: bool) -> None:
    """Print the result."""
    if as_json:
        print(json.dumps(record, indent=2, sort_keys=True))
        return
    from bdiff.report.audit import audit_lines
    from bdiff.report.summary import summary_table

    lines = audit_lines(record)
    screen = Screen(file=sys.stdout)
    if screen.is_terminal:
        screen.print(summary_table(lines))
    else:
        for head, line in lines.items():
            screen.print(f"{head}: {line}", soft_wrap=True)
