"""The amplification stage without a request: what its suspect is asked at a time."""

from pathlib import Path
from typing import Any

import pytest
import shared_work
import toys
from diffusers import DDPMScheduler
from omegaconf import OmegaConf

from bdiff.diffusion.mode import Mode
from bdiff.pipeline.amplify import amplify
from bdiff.pipeline.prepare import Pictures
from bdiff.pipeline.sample import Sampling
from bdiff.pipeline.stages import Stages

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


@pytest.mark.parametrize(("checkpoint", "batch"), [(False, 4), (True, 4), (3, 3), (9, 4)])
def test_gradients_of_parts_of_a_batch_are_compiled_for_such_parts(tmp_path, checkpoint, batch):
    run = shared_work.stages(tmp_path)
    mode = Mode.kept(tmp_path / "amplify" / amplified(run, checkpoint=checkpoint), "network")
    assert mode.batch == batch and mode.gradients
