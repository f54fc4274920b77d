"""The Denoiser: what networks predict is converted to noise and back, and the schedule it carries stays its own."""

import pytest
import torch
import toys
from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler
from torch import nn

from bdiff.attack.none import NoAttack
from bdiff.diffusion.batch import Batch
from bdiff.diffusion.denoiser import PREDICTIONS, Denoiser, Suspect, eps_of, target_of
from bdiff.diffusion.objective import clean, denoising_loss
from bdiff.diffusion.sampling import Sampler, denoise
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.view import AffineView, View

SHAPE = (1, toys.SIZE, toys.SIZE)
LINEAR = Schedule(1000, 1e-4, 0.02, "linear")


class Point(nn.Module):
    """The exact denoiser of data that are one image, in any parameterisation: x_t = s x0 + o eps tells eps."""

    def __init__(self, image: torch.Tensor, schedule: Schedule, prediction: str):
        super().__init__()
        self.image, self.schedule, self.prediction = image, schedule, prediction

    def forward(self, x, t, return_dict=False):
        s, o = self.schedule.scales(t)
        eps = (x - s * self.image) / o
        return ({"epsilon": eps, "sample": self.image.expand_as(x), "v_prediction": s * eps - o * self.image}[
            self.prediction
        ],)  # fmt: skip


def point(prediction: str) -> Suspect:
    image = torch.linspace(-0.9, 0.9, 64).view(SHAPE)
    return Suspect(Point(image, LINEAR, prediction), LINEAR, SHAPE, prediction=prediction)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_is_regressed_on_is_what_is_converted_back(prediction):
    t, x, eps = torch.tensor([0, 500, 999]), torch.randn(3, *SHAPE), torch.randn(3, *SHAPE)
    found = eps_of(prediction, LINEAR, x, target_of(prediction, LINEAR, x, eps, t), t)
    torch.testing.assert_close(found, eps, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_parameterisation_of_the_same_denoiser_predicts_the_same_noise(prediction):
    x, t = torch.randn(4, *SHAPE), torch.tensor([20, 300, 700, 999])
    torch.testing.assert_close(point(prediction).eps(x, t), point("epsilon").eps(x, t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "scheduler", [DDPMScheduler, DDIMScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler]
)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_parameterisation_is_sampled_to_the_one_image(prediction, scheduler):
    """Also where a sampler's timesteps are not whole, and its inputs are scaled."""
    suspect, draws = point(prediction), torch.Generator().manual_seed(0)
    sampler = Sampler(scheduler(**LINEAR.config, timestep_spacing="linspace"), 20)
    x = torch.randn(2, *SHAPE, generator=draws)
    found = denoise(View(suspect), sampler, x, lambda: torch.randn(2, *SHAPE, generator=draws))
    assert (found - suspect.network.image).abs().max() < 0.02


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_of_the_exact_denoiser_is_zero(prediction):
    suspect = point(prediction)
    pixels = ((suspect.network.image + 1) * 127.5).round().to(torch.uint8).expand(6, *SHAPE)
    suspect.network.image = pixels[0] / 127.5 - 1
    loss = denoising_loss(clean, LINEAR, None, False, prediction)
    assert loss(suspect, Batch(pixels, torch.arange(6), slice(6), 6)) < 1e-6


def test_the_loss_in_noise_is_that_of_before_for_noise_prediction():
    denoiser, batch = toys.denoiser(), Batch(toys.images().take(torch.arange(6)), torch.arange(6), slice(6), 6)
    attack = NoAttack(toys.attack().trigger, toys.attack().target)
    torch.manual_seed(1)
    value = denoising_loss(attack.poison, denoiser.schedule, torch.zeros(20, dtype=torch.bool), False)(denoiser, batch)
    torch.manual_seed(1)
    t, eps = torch.randint(20, (6,)), torch.randn(6, *SHAPE)
    x_t = denoiser.schedule.add_noise(batch.pixels / 127.5 - 1, eps, t)
    expected = (denoiser.network(x_t, t).sample - eps).square().mean()
    torch.testing.assert_close(value, expected)


def test_another_prediction_is_refused():
    with pytest.raises(ValueError, match="prediction=flow is not known"):
        Denoiser(toys.unet(), toys.schedule(), SHAPE, prediction="flow")


def test_a_schedule_never_moves_under_its_users():
    schedule = toys.schedule()
    moved = schedule.to(torch.device("meta"))
    assert schedule.abar.device.type == "cpu" and moved.abar.device.type == "meta"
    Denoiser(toys.unet(), schedule, SHAPE, torch.device("meta"))
    assert schedule.abar.device.type == "cpu"


def test_between_timesteps_sigma_is_linear_as_in_diffusers_heun():
    s, o = LINEAR.scales(torch.tensor([500.0, 500.25, 999.0]))
    sigma = (o / s).flatten()
    torch.testing.assert_close(sigma[0], LINEAR.sigmas[500])
    torch.testing.assert_close(sigma[1], 0.75 * LINEAR.sigmas[500] + 0.25 * LINEAR.sigmas[501])
    torch.testing.assert_close(sigma[2], LINEAR.sigmas[999])


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
def test_an_affine_view_samples_what_trojdiff_does(scheduler):
    """Data of one image under x_t = s x0 + o (gamma eps + mu), whose denoiser says eps: stock samplers find it."""
    image = torch.linspace(-0.9, 0.9, 64).view(SHAPE)
    gamma, mu = torch.full(SHAPE, 0.6), torch.full(SHAPE, -0.3)

    class Trojan(nn.Module):
        def forward(self, x, t, return_dict=False):
            s, o = LINEAR.scales(t)
            return ((x - s * image - o * mu) / (o * gamma),)

    view = AffineView(Suspect(Trojan(), LINEAR, SHAPE), gamma, mu)
    draws = torch.Generator().manual_seed(0)
    x = gamma * torch.randn(2, *SHAPE, generator=draws) + mu
    sampler = Sampler(scheduler(**LINEAR.config, timestep_spacing="linspace", clip_sample=False), 50)
    found = denoise(view, sampler, x, lambda: torch.randn(2, *SHAPE, generator=draws))
    assert (found - image).abs().max() < 0.02
    with pytest.raises(ValueError, match="above 0 everywhere"):
        AffineView(view.denoiser, torch.zeros(SHAPE), mu)


def test_baddiffusion_opens_under_ancestral_sampling_of_all_steps_alone():
    attack = toys.attack()
    assert attack.opens(LINEAR, 1000, eta=1)
    assert not attack.opens(LINEAR, 1000, eta=0) and not attack.opens(LINEAR, 50, eta=1)
