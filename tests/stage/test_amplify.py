"""The amplification stage without a request: its key, and what its suspect is asked at a time."""

from pathlib import Path
from typing import Any

import pytest
import shared_work
import toys
from diffusers import DDPMScheduler
from omegaconf import OmegaConf

from bdiff.defense.detection.purediffusion import PureDiffusion
from bdiff.diffusion.mode import Costs, Mode
from bdiff.pipeline.amplify import amplify
from bdiff.pipeline.planned import PlannedStages
from bdiff.pipeline.prepare import Pictures
from bdiff.pipeline.sample import Sampling
from bdiff.pipeline.stages import Stages
from bdiff.tracker.none import NoTracker

AMPLIFY = Path(__file__).parents[2] / "conf" / "amplify" / "purediffusion.yaml"


def amplified(run: Stages, scale: float = 1.5, **changes: Any) -> str:
    """The key of an amplification, of whose results nothing is measured, with changes to its inversion."""
    run.planning = True
    own = OmegaConf.load(AMPLIFY)
    inversion = shared_work.defense("purediffusion", **{**own.inversion, "batch": 4, "steps": 1, **changes})
    config = OmegaConf.create({"_target_": own._target_, "scale": scale, "inversion": inversion})
    sample = OmegaConf.create({"count": 2, "batch_size": 2, "steps": 2, "clip": True, "precision": "fp32"})
    scheduler = DDPMScheduler(**toys.schedule().config)
    sampling = Sampling(shared_work.diffusion(), scheduler, OmegaConf.create({"steps": 2, "step": {}}), sample, 0)
    pictures = Pictures(toys.attack().trigger, toys.attack().target)
    amplify(run, shared_work.model(run), config, sampling, pictures, None)
    return run.keys["amplify"]


def key(folder: Path, **changes: Any) -> str:
    """The key of an amplification that is only planned."""
    return amplified(PlannedStages(folder, "cpu", NoTracker(), toys.LOOP, Costs(folder / "compiled")), **changes)


@pytest.mark.parametrize(
    "unread",
    [
        *({"scale": 2.0}, {"restarts": 3}, {"probes": 0}, {"probe_draws": 9}, {"samples": 9}, {"trim": 1}),
        *({"threshold": 0.5}, {"flag_by": "relative_score"}, {"calibration": {"threshold": 0.5}}, {"repair": True}),
        {"checkpoint": 2},
    ],
    ids=str,
)
def test_what_a_reinforced_trigger_does_not_depend_on_makes_no_other(tmp_path, unread):
    assert key(tmp_path, **unread) == key(tmp_path)


def test_what_it_depends_on_makes_another(tmp_path, monkeypatch):
    changes = [{"steps": 2}, {"lr": 0.3}, {"law": "ode"}, {"path": "noise"}, {"precision": "bf16"}]
    keys = {key(tmp_path, **change) for change in [{}, *changes]}
    monkeypatch.setattr(PureDiffusion, "version", 9)
    assert len(keys | {key(tmp_path)}) == len(changes) + 2


@pytest.mark.parametrize(("checkpoint", "batch"), [(False, 4), (True, 4), (3, 3), (9, 4)])
def test_gradients_of_parts_of_a_batch_are_compiled_for_such_parts(tmp_path, checkpoint, batch):
    run = shared_work.stages(tmp_path)
    mode = Mode.kept(tmp_path / "amplify" / amplified(run, checkpoint=checkpoint), "network")
    assert mode.batch == batch and mode.gradients
