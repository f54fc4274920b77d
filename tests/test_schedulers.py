"""What is said of a sampler's scheduler and of a schedule without torch, against diffusers itself."""

import inspect

import diffusers
import pytest
from diffusers import UNet2DModel
from omegaconf import OmegaConf

from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.diffusion import schedulers
from bdiff.diffusion.schedule import Schedule
from bdiff.model import architecture
from bdiff.pipeline.prepare import sampler


@pytest.mark.parametrize("name", sorted(schedulers.KNOWN - {"DPMSolverSDEScheduler"}))  # which needs torchsde
def test_known_schedulers_take_a_schedule_of_betas(name):
    taken = inspect.signature(getattr(diffusers, name)).parameters
    assert {*schedulers.SCHEDULE, "prediction_type", "trained_betas"} <= {*taken}


def test_known_settings_of_a_unet_are_what_diffusers_takes():
    taken = {*inspect.signature(UNet2DModel).parameters}
    assert {*architecture.KNOWN} == taken - {"class_embed_type", "num_class_embeds"}


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(("steps", "start", "end"), [(100, 0.001, 0.1), (1000, 0.0001, 0.02), (20, 0.001, 0.03)])
def test_the_last_abar_is_that_of_the_tables(kind, steps, start, end):
    schedule = Schedule(steps, start, end, kind)
    assert schedulers.last_abar(schedule.config) == pytest.approx(float(schedule.abar[-1]), rel=1e-3)


@pytest.mark.parametrize(
    ("abar", "end", "marked"), [(0.0054, 0.1, False), (0.21, 0.03, True)], ids=["the digits", "hardly noisy"]
)
def test_a_schedule_that_ends_before_noise_is_marked(abar, end, marked):
    schedule = {"num_train_timesteps": 100, "beta_start": 0.001, "beta_end": end, "beta_schedule": "linear"}
    assert schedulers.last_abar(schedule) == pytest.approx(abar, rel=0.05)
    assert schedulers.noise_problems(schedule) == []
    assert bool(schedulers.start_marks(schedule)) == marked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+sampler.scheduler.foo=1"], "sampler.scheduler.foo is not known"),
        (["+sampler.scheduler.clip_sampl=true"], "did you mean clip_sample"),
        (["sampler=dpm_solver", "+sampler.scheduler.algorithm_type=foo"], "sampler.scheduler cannot be made so"),
        (["+sampler.step={eta:1}"], "sampler.step.eta is no option of DDPMScheduler.step(), which has none"),
        (["sampler=ddim", "+sampler.step.ta=1"], "which has eta, use_clipped_model_output"),
        (["sampler.scheduler._target_=diffusers.DPMSolverSDEScheduler"], "draws noise that is not the seed's"),
    ],
)
def test_what_diffusers_alone_can_tell_is_reported_before_training(words, message):
    try:
        (config,) = jobs(words, multirun=False)
    except RequestError as error:
        assert message in str(error)
        return
    schedule = OmegaConf.to_container(config.schedule)
    schedule.pop("_target_")
    with pytest.raises(RequestError) as caught:
        sampler(config.sampler, Schedule(**schedule), config.sample.steps)
    assert message in str(caught.value) and len(caught.value.problems) == 1
