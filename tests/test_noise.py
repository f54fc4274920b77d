"""Noise drawn ahead has the bits of each image's own generator, and samplers take it instead of drawing theirs."""

import hashlib
import time

import pytest
import torch
import toys
from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler
from torch import nn

from bdiff.common.seeds import generator
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.noise import Noise
from bdiff.diffusion.sampling import Drawn, Sampler, denoise, noise_of, sample, shards

SHAPE = (1, toys.SIZE, toys.SIZE)
CPU = torch.device("cpu")


def generators(count: int = 5) -> list[torch.Generator]:
    return [generator("noise", index) for index in range(count)]


def test_draws_are_those_of_each_images_generator_in_their_order():
    noise, expected = Noise(generators(), SHAPE, CPU), generators()
    for _ in range(4):
        assert torch.equal(next(noise), torch.stack([torch.randn(SHAPE, generator=one) for one in expected]))


def test_a_draw_stays_as_it_is_when_later_ones_are_made():
    noise = Noise(generators(), SHAPE, CPU)
    first = next(noise)
    kept = first.clone()
    for _ in range(3):
        next(noise)
    assert torch.equal(first, kept)


def test_what_goes_wrong_in_a_thread_is_raised():
    noise = Noise(["no generator"], SHAPE, CPU)
    with pytest.raises(TypeError):
        next(noise)


class Half(nn.Module):
    """Predicts half of what it is shown."""

    def forward(self, x, t, return_dict):
        return (x * 0.5,)


NOISY = [(DDPMScheduler, {}), (DDIMScheduler, {"eta": 1.0}), (EulerAncestralDiscreteScheduler, {})]


@pytest.mark.parametrize(("scheduler", "options"), [*NOISY, (DDIMScheduler, {"eta": 0.0}), (HeunDiscreteScheduler, {})])
def test_a_sampler_that_is_handed_its_noise_gives_what_it_gives_by_itself(scheduler, options):
    plain, own = scheduler(**toys.schedule().config), generators()
    x = torch.stack([torch.randn(SHAPE, generator=one) for one in own])
    plain.set_timesteps(6)
    drawing = {"generator": own} if (scheduler, options) in NOISY else {}
    expected = x * plain.init_noise_sigma
    for t in plain.timesteps:
        eps = plain.scale_model_input(expected, t) * 0.5
        expected = plain.step(eps, t, expected, return_dict=False, **drawing, **options)[0]
    noise = Noise(generators(), SHAPE, CPU)
    x = next(noise)
    found = denoise(toys.Seen(Half()), Sampler(scheduler(**toys.schedule().config), 6, options), x, noise.__next__)
    assert torch.equal(found, expected)


#: sha256 over the samples of `Half` as they were before noise was drawn ahead
DIGESTS = {"DDPMScheduler": "396fe8c8058f9848", "DDIMScheduler": "223aaf60934be283",
           "EulerAncestralDiscreteScheduler": "0e858cd25a77924f"}  # fmt: skip


@pytest.mark.parametrize(("scheduler", "options"), NOISY)
def test_samples_have_the_bits_that_they_always_had(tmp_path, scheduler, options):
    kinds = {"clean": Drawn(lambda eps: eps, 9), "triggered": Drawn(toys.attack().prior, 9)}
    suspect, sampler = Suspect(Half(), toys.schedule(), SHAPE), Sampler(scheduler(**toys.schedule().config), 5, options)
    sample(suspect, sampler, kinds, 4, 1, tmp_path, toys.accelerator())
    total = hashlib.sha256()
    for kind in kinds:
        total.update(torch.cat([*shards(tmp_path, kind)]).numpy().tobytes())
    assert total.hexdigest()[:16] == DIGESTS[scheduler.__name__]


def test_noise_is_drawn_while_the_network_works():
    """A network that sleeps costs what it sleeps: the noise of the next step is there when it wakes."""

    class Sleeper(nn.Module):
        def forward(self, x, t, return_dict):
            time.sleep(0.05)
            return (x,)

    noise = noise_of((3, 32, 32), 0, range(64), CPU)
    x, waits = next(noise), []

    def watched():
        began = time.monotonic()
        drawn = next(noise)
        waits.append(time.monotonic() - began)
        return drawn

    denoise(toys.Seen(Sleeper()), Sampler(DDPMScheduler(**toys.schedule().config), 6), x, watched, noise.ahead)
    assert len(waits) == 5 and sorted(waits)[2] < 0.02
