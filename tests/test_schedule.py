"""The noise schedule against closed forms."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from bdiff.diffusion.schedule import Schedule


@pytest.fixture
def linear() -> Schedule:
    return Schedule(1000, 1e-4, 0.02, "linear")


def test_the_published_linear_schedule(linear):
    beta = [1e-4 + (0.02 - 1e-4) * t / 999 for t in range(1000)]
    abar, product = [], 1.0
    for value in beta:
        product *= 1 - value
        abar.append(product)
    torch.testing.assert_close(linear.betas.double(), torch.tensor(beta).double(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(linear.abar.double(), torch.tensor(abar).double(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_noising_agrees_with_diffusers_and_is_undone(linear, t):
    x0, eps = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    steps = torch.full((3,), t)
    x_t = linear.add_noise(x0, eps, steps)
    torch.testing.assert_close(x_t, DDPMScheduler(**linear.config).add_noise(x0, eps, steps))
    torch.testing.assert_close(linear.x0(x_t, eps, steps), x0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.02, 0.25, 0.5, 1.0, 100.0])
def test_t_of_sigma_is_the_first_step_as_noisy_as_that(linear, sigma):
    t = linear.t_of_sigma(sigma)
    noise = [math.sqrt((1 - abar) / abar) for abar in linear.abar.tolist()]
    assert noise[t] >= sigma
    assert t == 0 or noise[t - 1] < sigma


def test_sigmas_are_the_noise_of_an_image_brought_back_to_its_size(linear):
    x0, eps, last = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([999])
    back = linear.add_noise(x0, eps, last) / linear.abar[999].sqrt()
    assert (back - x0).item() == pytest.approx(linear.sigmas[999].item(), rel=1e-5)
    assert linear.sigmas[0].item() == pytest.approx(math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-3)
    assert (linear.sigmas.diff() > 0).all() and len(linear.sigmas) == 1000


def test_a_sigma_beyond_the_schedule_is_refused(linear):
    with pytest.raises(ValueError, match="beyond the schedule"):
        linear.t_of_sigma(1e6)
