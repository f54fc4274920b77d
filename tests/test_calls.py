"""Calls go down the layers: in a run, a layer is called from one below it only through the seams that it was handed."""

import inspect
import sys
from collections import Counter

import test_imports
from tiny import TINY

from bdiff.cli import main as cli

#: what a lower layer is handed by a higher one, and calls: the methods of an attack, what an engine evaluates, and what
#: takes rows and figures
SEAMS = {"poison", "update", "state_dict", "prior", "view", "activations_of", "record", "shown", "log", "picture"}


def test_a_run_climbs_through_its_seams_alone(tmp_path):
    package, climbs = f"{test_imports.PACKAGE}/", Counter()

    def folder(frame) -> str | None:
        """The folder of bdiff that a frame's code is from."""
        name = frame.f_code.co_filename
        return name.removeprefix(package).partition("/")[0].removesuffix(".py") if name.startswith(package) else None

    def hook(frame, event, argument):
        own, caller = folder(frame), frame.f_back
        if event != "call" or own in (None, "__init__") or frame.f_code.co_flags & inspect.CO_GENERATOR:
            return  # a generator was called by whom it was made
        while caller is not None and folder(caller) is None:
            caller = caller.f_back
        if caller is None or frame.f_code.co_name.startswith("<") or folder(caller) == "config":
            return  # config checks and makes parts by their paths
        if test_imports.LEVEL[own] > test_imports.LEVEL[folder(caller)]:
            climbs[frame.f_code.co_name, frame.f_code.co_filename.removeprefix(package)] += 1

    sys.setprofile(hook)
    try:
        code = cli.command(["run", *TINY, f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache"])
    finally:
        sys.setprofile(None)
    assert code == 0
    assert {name for name, _ in climbs} <= SEAMS, climbs
    assert ("poison", "attack/additive.py") in climbs  # the hook sees what there is
