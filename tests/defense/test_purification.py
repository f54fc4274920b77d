"""Purification against closed forms: of Gaussian data everything about it is known."""

from pathlib import Path

import pytest
import torch
import toys
from omegaconf import OmegaConf
from torch import Tensor, nn

from bdiff.common.seeds import generator
from bdiff.defense.shields.purification import PassThrough, Purification, Shielded
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.noise import Noise
from bdiff.diffusion.schedule import Schedule
from bdiff.pipeline.suspect import method

MEAN, DEVIATION = 0.3, 0.5  # of the data's pixels
SHAPE = (1, 8, 8)
CPU = torch.device("cpu")


@pytest.fixture
def schedule() -> Schedule:
    return Schedule(1000, 1e-4, 0.02, "linear")


def gaussian(schedule: Schedule):
    """The best denoiser of data N(MEAN, DEVIATION^2 I)."""

    def eps(x: Tensor, t: int) -> Tensor:
        abar = schedule.abar[t]
        return (1 - abar).sqrt() * (x - abar.sqrt() * MEAN) / (abar * DEVIATION**2 + 1 - abar)

    return eps


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [generator(seed, index) for index in range(count)]


def noise(x: Tensor) -> Noise:
    return Noise(generators(len(x)), x.shape[1:], x.device)


def noised(schedule: Schedule, x: Tensor, t: int, seed: int = 0) -> Tensor:
    """What purification starts from, with the first noise of every image's generator."""
    drawn = torch.stack([torch.randn(x.shape[1:], generator=one) for one in generators(len(x), seed)])
    return schedule.abar[t - 1].sqrt() * x + (1 - schedule.abar[t - 1]).sqrt() * drawn


def shrinking(schedule: Schedule, t: int) -> float:
    """E[x0 | x_t] = MEAN + this * (x_t - sqrt(abar) MEAN) for Gaussian data."""
    abar = float(schedule.abar[t - 1])
    return abar**0.5 * DEVIATION**2 / (abar * DEVIATION**2 + 1 - abar)


class TinyClassifier(nn.Module):
    """Three labels, from a smooth function of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def toy_shield(checkpoint: bool = False, copies: int = 2, seed: int = 0, **options) -> Shielded:
    suspect = Suspect(toys.unet(), toys.schedule(), SHAPE, recompute=checkpoint)
    purification = Purification(t=5, sampler="ancestral", steps=None, copies=copies)
    return Shielded(purification, suspect.eps, suspect.schedule, TinyClassifier(), seed=seed, **options)


@pytest.mark.parametrize(
    ("t", "steps", "path"),
    [(4, None, [3, 2, 1, 0, -1]), (100, 4, [99, 74, 49, 24, -1]), (7, 3, [6, 4, 2, -1]), (9, 1, [8, -1])],
)
def test_the_path_leads_from_t_to_the_image_in_even_steps(t, steps, path):
    purification = Purification(t=t, sampler="ddim", steps=steps, copies=3)
    assert purification.path == path
    assert purification.evaluations == 3 * (len(path) - 1)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_one_step_gives_the_conditional_mean(schedule, sampler):
    x = torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8)
    purified = Purification(300, sampler, 1, 1).purify(x, gaussian(schedule), schedule, noise(x))
    x_t = noised(schedule, x, 300)
    expected = MEAN + shrinking(schedule, 300) * (x_t - schedule.abar[299].sqrt() * MEAN)
    torch.testing.assert_close(purified, expected, rtol=1e-4, atol=1e-5)


def test_ddim_follows_the_probability_flow(schedule):
    """The ODE keeps the number of standard deviations that a pixel is from the mean of its timestep's marginal."""
    x = torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8)
    purified = Purification(400, "ddim", None, 1).purify(x, gaussian(schedule), schedule, noise(x))
    abar = schedule.abar[399]
    deviations = (noised(schedule, x, 400) - abar.sqrt() * MEAN) / (abar * DEVIATION**2 + 1 - abar).sqrt()
    torch.testing.assert_close(purified, MEAN + DEVIATION * deviations, rtol=0, atol=0.01)


@pytest.mark.parametrize("steps", [None, 5])
def test_ancestral_purification_has_the_conditional_mean_on_average(schedule, steps):
    x = torch.full((20, 1, 40, 40), 0.9)
    purified = Purification(100, "ancestral", steps, 1).purify(x, gaussian(schedule), schedule, noise(x))
    abar = float(schedule.abar[99])
    expected = MEAN + abar**0.5 * shrinking(schedule, 100) * (0.9 - MEAN)
    assert purified.std() > 0.1
    assert float(purified.mean()) == pytest.approx(expected, abs=4 * 0.5 / 32_000**0.5)


def test_ancestral_purification_with_all_steps_leaves_the_marginal(schedule):
    x = MEAN + DEVIATION * torch.randn((20, 1, 40, 40), generator=torch.Generator().manual_seed(3))
    purified = Purification(250, "ancestral", None, 1).purify(x, gaussian(schedule), schedule, noise(x))
    assert float(purified.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(purified.std()) == pytest.approx(DEVIATION, rel=0.02)
    correlation = torch.corrcoef(torch.stack([x.flatten(), purified.flatten()]))[0, 1]
    abar = float(schedule.abar[249])  # x forgot itself as far as x_t* lost sight of it, twice: there and back
    assert float(correlation) == pytest.approx(abar * DEVIATION**2 / (abar * DEVIATION**2 + 1 - abar), abs=0.03)


def test_the_gradient_is_that_of_the_closed_form(schedule):
    x = torch.zeros(2, *SHAPE, requires_grad=True)
    purified = Purification(300, "ancestral", 1, 1).purify(x, gaussian(schedule), schedule, noise(x))
    (gradient,) = torch.autograd.grad(purified.sum(), x)
    expected = float(schedule.abar[299]) ** 0.5 * shrinking(schedule, 300)
    torch.testing.assert_close(gradient, torch.full_like(x, expected), rtol=1e-4, atol=0)


def test_checkpointing_changes_no_gradient_and_computes_a_second_time():
    def gradient(checkpoint: bool) -> tuple[Tensor, int]:
        shield, x = toy_shield(checkpoint), torch.linspace(-1, 1, 192).view(3, *SHAPE).requires_grad_()
        calls = []
        shield.eps.__self__.network.register_forward_pre_hook(lambda *_: calls.append(1))
        (gradient,) = torch.autograd.grad(shield.attacked(range(3))(x)[:, 0].sum(), x)
        return gradient, len(calls)

    (plain, once), (checkpointed, twice) = gradient(False), gradient(True)
    assert plain.abs().min() > 0
    torch.testing.assert_close(checkpointed, plain)
    assert (once, twice) == (5, 10)


def test_bpda_passes_the_gradient_through_as_it_is():
    x, answer = torch.randn(2, *SHAPE, requires_grad=True), torch.randn(2, *SHAPE)
    weights = torch.randn(2, *SHAPE)
    passed = PassThrough.apply(x, answer)
    torch.testing.assert_close(passed, answer)
    assert torch.equal(torch.autograd.grad((weights * passed).sum(), x)[0], weights)


def test_a_bpda_shield_has_the_classifiers_gradient_at_the_purified_images():
    x = torch.linspace(-1, 1, 128).view(2, *SHAPE).requires_grad_()
    shield = toy_shield(bpda=True)
    torch.testing.assert_close(shield.attacked([4, 5])(x), toy_shield().attacked([4, 5])(x))
    (gradient,) = torch.autograd.grad(shield.attacked([4, 5])(x)[:, 0].sum(), x)
    twice = x.detach().repeat(2, 1, 1, 1)
    copies = shield.purified(twice, shield.noise("attack", [4, 5], x)).requires_grad_()
    (there,) = torch.autograd.grad(shield.classifier(copies)[:, 0].sum(), copies)
    torch.testing.assert_close(gradient, there.view(2, 2, *SHAPE).mean(0))


def test_results_depend_on_seed_index_and_vote_but_not_on_the_batch():
    x = torch.linspace(-1, 1, 64).view(1, *SHAPE).repeat(6, 1, 1, 1)
    shield, indices = toy_shield(), list(range(10, 16))
    whole = shield.images(x, indices)
    parts = torch.cat([shield.images(x[:1], indices[:1]), shield.images(x[1:], indices[1:])])
    torch.testing.assert_close(parts, whole)
    assert torch.equal(shield.labels(x, indices), shield.labels(x, indices))
    others = [shield.images(x, range(6)), toy_shield(seed=1).images(x, indices), whole.roll(1, 0)]
    generators = [generator(0, "purify", index, 1) for index in indices]
    second = shield.purified(x, Noise(generators, SHAPE, x.device))
    assert all((other - whole).abs().amax((1, 2, 3)).min() > 0.01 for other in [*others, second])


def test_the_label_is_that_of_the_mean_logits_over_the_votes():
    x = torch.linspace(-1, 1, 128).view(2, *SHAPE)
    shield = toy_shield(copies=3)
    copies = [
        Purification(5, "ancestral", None, 1).purify(
            x, shield.eps, shield.schedule, Noise([generator(0, "purify", index, copy) for index in (7, 9)], SHAPE, CPU)
        )
        for copy in range(3)
    ]
    mean = sum(shield.classifier(copy) for copy in copies) / 3
    torch.testing.assert_close(shield.logits(x, shield.noise("purify", [7, 9], x)), mean)
    assert torch.equal(shield.labels(x, [7, 9]), mean.argmax(1))


def test_every_call_has_fresh_noise_and_a_shield_of_the_same_seed_the_same():
    x = torch.linspace(-1, 1, 128).view(2, *SHAPE)
    shield, (asked, again) = toy_shield(), (toy_shield().attacked([3, 4]) for _ in range(2))
    first, second = asked(x), asked(x)
    assert (first - second).abs().max() > 1e-3
    assert torch.equal(again(x), first) and torch.equal(again(x), second)
    asked, alone = shield.attacked([3, 4]), shield.attacked([4])
    answers = [(asked(x)[1:], alone(x[1:])) for _ in range(2)]
    torch.testing.assert_close(*answers[0])
    torch.testing.assert_close(*answers[1])
    assert (answers[0][0] - answers[1][0]).abs().max() > 1e-3


def test_a_t_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"defense\.t=21 is beyond the schedule's 20 timesteps"):
        Shielded(Purification(21, "ddim", None, 1), gaussian(toys.schedule()), toys.schedule(), nn.Identity(), seed=0)


def test_the_config_makes_a_purification():
    purification = method(OmegaConf.load(Path(__file__).parents[2] / "conf" / "defense" / "purification.yaml"))
    assert isinstance(purification, Purification)
    assert purification.evaluations == 8
