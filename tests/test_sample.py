"""The sampling loop: an image is a function of seed and index, both kinds share their noise, shards resume."""

from functools import partial

import pytest
import torch
import toys
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
)
from safetensors.torch import load_file
from torch import nn

from bdiff.attack.none import NoAttack
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.sampling import Drawn, Sampler, noise_of, sample, shards
from bdiff.trigger.base import Trigger

STEPS = 5
SHAPE = (1, toys.SIZE, toys.SIZE)
CPU = torch.device("cpu")


def drawn(
    folder, batch_size, count=9, scheduler=DDPMScheduler, attack=None, unet=None, seed=1, options=None,
    accelerator=None, steps=STEPS, triggered=None,
):  # fmt: skip
    """Clean and triggered samples of a toy model."""
    accelerator = accelerator or toys.accelerator()
    sample(
        Suspect(unet or toys.unet(), toys.schedule(), SHAPE, accelerator.device),
        Sampler(scheduler(**toys.schedule().config), steps, options or {}),
        {
            "clean": Drawn(lambda eps: eps, count),
            "triggered": Drawn((attack or toys.attack()).prior, triggered or count),
        },
        batch_size,
        seed,
        folder,
        accelerator,
    )
    return tuple(torch.cat(list(shards(folder, kind))) for kind in ("clean", "triggered"))


SCHEDULERS = [(DDPMScheduler, {}), (DDIMScheduler, {"eta": 0.0}), (DDIMScheduler, {"eta": 1.0}),
              (DPMSolverMultistepScheduler, {})]  # fmt: skip


@pytest.mark.parametrize(("scheduler", "options"), SCHEDULERS)
def test_batch_size_does_not_matter(tmp_path, scheduler, options):
    expected = drawn(tmp_path / "64", 64, scheduler=scheduler, options=options)
    for size in (1, 7):
        found = drawn(tmp_path / str(size), size, scheduler=scheduler, options=options)
        for one, other in zip(found, expected, strict=True):
            assert (one.int() - other.int()).abs().max() <= 1  # uint8: a rounding may fall either way


def test_equal_batch_shapes_give_equal_bits(tmp_path):
    first, again = drawn(tmp_path / "a", 4), drawn(tmp_path / "b", 4)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_more_images_leave_the_first_ones_as_they_are(tmp_path):
    few, many = drawn(tmp_path / "few", 4, count=4), drawn(tmp_path / "many", 4, count=12)
    assert torch.equal(few[0], many[0][:4])
    assert len(many[0]) == 12


def test_fewer_triggered_images_leave_all_images_as_they_are(tmp_path):
    """Whether the triggered ones end within a batch, with one, or in an earlier one."""
    expected = drawn(tmp_path / "all", 4)
    for fewer in (2, 4, 6):
        clean, triggered = drawn(tmp_path / f"{fewer}", 4, triggered=fewer)
        assert torch.equal(clean, expected[0])
        assert len(triggered) == fewer and (triggered.int() - expected[1][:fewer].int()).abs().max() <= 1


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
    eps = next(noise_of(SHAPE, 1, range(3), CPU))
    scheduler = DDIMScheduler(**toys.schedule().config)
    scheduler.set_timesteps(STEPS)
    # each step divides by sqrt(abar_t) and multiplies by sqrt(abar_prev): only the first root is left at the end
    root = scheduler.alphas_cumprod[scheduler.timesteps[0]].sqrt()
    for found, prior in ((clean, eps), (triggered, toys.attack().prior(eps))):
        expected = ((prior / root).clamp(-1, 1) + 1) * 127.5
        assert (found.float() - expected).abs().max() < 0.51 + 1e-3


def test_a_killed_sampling_makes_only_what_is_missing(tmp_path):
    expected = drawn(tmp_path / "whole", 3)
    drawn(tmp_path / "killed", 3)
    lost = sorted((tmp_path / "killed").glob("*.safetensors"))[1]
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.safetensors")}
    found = drawn(tmp_path / "killed", 3)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_the_trajectory_of_a_model_that_predicts_no_noise_is_the_scaled_prior(tmp_path):
    """DDIM then only rescales, x_t = x_T sqrt(abar_t / abar_T), at every timestep that was kept."""
    path, steps = tmp_path / "trajectory.safetensors", 18
    whole = partial(DDIMScheduler, clip_sample=False)
    drawn(tmp_path / "s", 6, scheduler=whole, unet=Zero(), options={"eta": 0.0}, steps=steps)
    kept = load_file(path)
    scheduler = DDIMScheduler(**toys.schedule().config)
    scheduler.set_timesteps(steps)
    places = [0, 2, 4, 6, 8, 9, 11, 13, 15, 17]  # ten of 0..17, as evenly as whole numbers go
    assert kept["t"].tolist() == scheduler.timesteps[places].tolist()
    roots = scheduler.alphas_cumprod[scheduler.timesteps[places]].sqrt()
    roots = torch.cat([roots, torch.ones(1)]) / roots[0]  # at the end abar is 1
    eps = next(noise_of(SHAPE, 1, range(4), CPU))
    for name, prior in (("clean", eps), ("triggered", toys.attack().prior(eps))):
        expected = prior * roots.view(-1, 1, 1, 1, 1)
        assert kept[name].dtype == torch.float16
        assert torch.allclose(kept[name].float(), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    "scheduler", [DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler]
)
def test_a_trajectory_leads_from_the_noise_to_the_samples(tmp_path, scheduler):
    """Whatever the scheduler's own scale: it starts at unit variance and ends at what was kept as images."""
    path = tmp_path / "trajectory.safetensors"
    clean, triggered = drawn(tmp_path / "with", 9, scheduler=scheduler)
    without = drawn(tmp_path / "without", 9, scheduler=scheduler)
    assert torch.equal(clean, without[0]) and torch.equal(triggered, without[1])
    kept = load_file(path)
    eps = next(noise_of(SHAPE, 1, range(4), CPU))
    assert torch.allclose(kept["clean"][0].float(), eps, rtol=0.1, atol=0.01)  # sigma_max is finite
    for name, images in (("clean", clean), ("triggered", triggered)):
        end = (kept[name][-1].float().clamp(-1, 1) + 1) * 127.5
        assert (end - images[:4].float()).abs().max() < 1  # a uint8's rounding and a float16's
        assert kept[name].shape == (len(kept["t"]) + 1, 4, 1, 8, 8)


def test_a_killed_sampling_leaves_a_trajectory_with_its_first_batch(tmp_path):
    path = tmp_path / "trajectory.safetensors"
    drawn(tmp_path / "s", 3)
    whole = path.read_bytes()
    first, last = sorted((tmp_path / "s").glob("*.safetensors"))[::2]
    path.unlink()
    first.unlink()  # the trajectory is written before its batch
    last.unlink()
    drawn(tmp_path / "s", 3)
    assert path.read_bytes() == whole


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_what_the_cpu_draws(tmp_path):
    from bdiff.common.device import open_device

    expected = drawn(tmp_path / "cpu", 9)
    found = drawn(tmp_path / "gpu", 9, accelerator=open_device("cuda"))[0]
    assert (found.int() - expected[0].int()).abs().max() <= 2


@pytest.mark.parametrize("part", [0, 5, 100, -1])
def test_a_shard_that_is_cut_off_is_made_again(part, tmp_path, caplog):
    expected = drawn(tmp_path / "whole", 3)
    drawn(tmp_path / "cut", 3)
    path = sorted((tmp_path / "cut").glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:part])
    found = drawn(tmp_path / "cut", 3)
    assert f"{path} is damaged and will be rebuilt" in caplog.text
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_damaged_trajectory_is_made_again(tmp_path):
    path = tmp_path / "trajectory.safetensors"
    drawn(tmp_path / "shards", 3)
    kept = path.read_bytes()
    path.write_bytes(kept[:-1])
    drawn(tmp_path / "shards", 3)
    assert path.read_bytes() == kept
