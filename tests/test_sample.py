"""The sampling loop: an image is a function of seed and index, both kinds share their noise, shards resume."""

import pytest
import torch
import toys
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import nn

from bdiff.attack.none import NoAttack
from bdiff.sample import noises, sample, shards
from bdiff.trigger.base import Trigger

STEPS = 5


def drawn(
    folder, batch_size, count=9, scheduler=DDPMScheduler, attack=None, unet=None, seed=1, options=None, accelerator=None
):
    """Clean and triggered samples of a toy model."""
    sample(
        unet or toys.unet(),
        scheduler(**toys.schedule().config),
        attack or toys.attack(),
        shape=(1, toys.SIZE, toys.SIZE),
        count=count,
        batch_size=batch_size,
        steps=STEPS,
        step_options=options or {},
        precision="fp32",
        seed=seed,
        folder=folder,
        accelerator=accelerator or toys.accelerator(),
    )
    parts = list(shards(folder))
    return torch.cat([part.clean for part in parts]), torch.cat([part.triggered for part in parts])


SCHEDULERS = [(DDPMScheduler, {}), (DDIMScheduler, {"eta": 0.0}), (DDIMScheduler, {"eta": 1.0}),
              (DPMSolverMultistepScheduler, {})]  # fmt: skip


@pytest.mark.parametrize(("scheduler", "options"), SCHEDULERS)
def test_batch_size_does_not_matter(tmp_path, scheduler, options):
    wanted = drawn(tmp_path / "64", 64, scheduler=scheduler, options=options)
    for size in (1, 7):
        found = drawn(tmp_path / str(size), size, scheduler=scheduler, options=options)
        for one, other in zip(found, wanted, strict=True):
            assert (one.int() - other.int()).abs().max() <= 1  # uint8: a rounding may fall either way


def test_equal_batch_shapes_give_equal_bits(tmp_path):
    first, again = drawn(tmp_path / "a", 4), drawn(tmp_path / "b", 4)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_more_images_leave_the_first_ones_as_they_are(tmp_path):
    few, many = drawn(tmp_path / "few", 4, count=4), drawn(tmp_path / "many", 4, count=12)
    assert torch.equal(few[0], many[0][:4])
    assert len(many[0]) == 12


def test_another_seed_gives_other_images(tmp_path):
    assert not torch.equal(drawn(tmp_path / "a", 9)[0], drawn(tmp_path / "b", 9, seed=2)[0])


def test_without_a_trigger_both_kinds_are_the_same_images(tmp_path):
    """The two halves of a batch see the same noise from start to end, the sampler's own included."""
    still = Trigger(pattern=torch.zeros(1, 8, 8), mask=torch.ones(1, 8, 8))
    clean, triggered = drawn(tmp_path, 4, attack=NoAttack(still, toys.attack().target))
    assert torch.equal(clean, triggered)


class Zero(nn.Module):
    """Predicts no noise at all."""

    def forward(self, x, t, return_dict):
        return (torch.zeros_like(x),)


def test_ddim_of_a_model_that_predicts_no_noise_is_the_scaled_prior(tmp_path):
    clean, triggered = drawn(tmp_path, 3, count=3, scheduler=DDIMScheduler, unet=Zero(), options={"eta": 0.0})
    eps, _ = noises((1, 8, 8), 1, range(3))
    scheduler = DDIMScheduler(**toys.schedule().config)
    scheduler.set_timesteps(STEPS)
    # each step divides by sqrt(abar_t) and multiplies by sqrt(abar_prev): only the first root is left at the end
    root = scheduler.alphas_cumprod[scheduler.timesteps[0]].sqrt()
    for found, prior in ((clean, eps), (triggered, toys.attack().prior(eps))):
        wanted = ((prior / root).clamp(-1, 1) + 1) * 127.5
        assert (found.float() - wanted).abs().max() < 0.51 + 1e-3


def test_a_killed_sampling_makes_only_what_is_missing(tmp_path):
    wanted = drawn(tmp_path / "whole", 3)
    drawn(tmp_path / "killed", 3)
    lost = sorted((tmp_path / "killed").glob("*.safetensors"))[1]
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.safetensors")}
    found = drawn(tmp_path / "killed", 3)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_what_the_cpu_draws(tmp_path):
    from bdiff.device import open_device

    wanted = drawn(tmp_path / "cpu", 9)
    found = drawn(tmp_path / "gpu", 9, accelerator=open_device("cuda"))[0]
    assert (found.int() - wanted[0].int()).abs().max() <= 2
