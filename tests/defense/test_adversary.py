"""Attacks against closed forms: a linear classifier's worst case, and gradients taken by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bdiff.adversary.pgd import Ball, apgd, cost, mean_gradient, pgd, start
from bdiff.common.errors import RunError
from bdiff.common.seeds import generator
from bdiff.defense.shields.purification import Purification, Shielded
from bdiff.diffusion.schedule import Schedule

SHAPE = (2, 4, 4)
EPS = {"linf": 8 / 255, "l2": 0.25}


def weights() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def linear(x: Tensor) -> Tensor:
    """Two labels on either side of a plane."""
    score = (weights() * x).sum((1, 2, 3))
    return torch.stack([score, -score], 1)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4)).requires_grad_(False)


def images(count: int = 6, reach: float = 1.0) -> Tensor:
    return reach * (2 * torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(3)) - 1)


def distance(delta: Tensor, norm: str) -> Tensor:
    """In units of images in [0,1]."""
    flat = (delta / 2).flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.square().sum(1).sqrt()


def attack(logits, x: Tensor, y: Tensor, norm: str, **changes) -> Tensor:
    ball = Ball(norm, changes.pop("eps", EPS[norm]))
    options = {"step": EPS[norm] / 4, "steps": 40, "eot": 1, "generator": generator(0, "test")}
    return pgd(logits, x, y, ball=ball, **options | changes)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [0, 1, 20])
def test_the_answer_is_in_the_ball_and_in_the_box(net, norm, steps):
    x, y = images(50), torch.arange(50) % 4
    found = attack(net, x, y, norm, steps=steps)
    assert found.abs().max() <= 1
    assert distance(found - x, norm).max() <= EPS[norm] * (1 + 1e-5)
    assert distance(found - x, norm).min() > EPS[norm] / 10
    assert found.abs().max() == 1  # some pixels had to be stopped at the edge


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_classifiers_worst_case_is_found(norm):
    x, y = images(reach=0.4), torch.arange(6) % 2  # far enough from the box
    found = attack(linear, x, y, norm)
    away = torch.where(y == 0, -1.0, 1.0).view(-1, 1, 1, 1) * weights()
    direction = away.sign() if norm == "linf" else away / away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, x + 2 * EPS[norm] * direction, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_is_uniform_in_the_ball(norm):
    x = torch.zeros(4000, 1, 1, 3)
    points = start(x, norm, 0.5, generator(0, "test"))
    reached = points.flatten(1).abs().amax(1) if norm == "linf" else points.flatten(1).norm(dim=1)
    shares = [float((reached <= 0.5 * share).float().mean()) for share in (0.5, 0.8, 1.0)]
    assert shares == pytest.approx([0.5**3, 0.8**3, 1.0], abs=0.025)  # volumes
    torch.testing.assert_close(points.mean(0), torch.zeros(1, 1, 3), rtol=0, atol=0.02)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_with_its_own_generator_is_attacked_the_same_in_every_batch(net, norm):
    x, y = images(), torch.arange(6) % 4
    own = [generator(0, "attack", index) for index in range(6)]
    whole = attack(net, x, y, norm, generator=own)
    own = [generator(0, "attack", index) for index in range(6)]
    parts = [attack(net, x[rows], y[rows], norm, generator=own[rows]) for rows in (slice(2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(attack(net, x, y, norm, steps=0), attack(net, x, y, norm, steps=0, generator=own))


class Restless:
    """A classifier with other weights in every call; keeps what it was shown."""

    def __init__(self) -> None:
        self.draws = generator(5, "restless")
        self.seen: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        self.drawn.append(torch.randn((32, 3), generator=self.draws))
        return x.flatten(1) @ self.drawn[-1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_goes_along_the_mean_of_the_gradients(norm):
    """Here from gradients by hand: of cross-entropy over x W it is (softmax - onehot) W^T."""
    restless, x, y = Restless(), images(reach=0.3), torch.arange(6) % 3
    attack(restless, x, y, norm, steps=2, eot=3, step=0.01, eps=0.2)
    assert len(restless.seen) == 6
    first, then = restless.seen[0], restless.seen[3]
    assert torch.equal(restless.seen[2], first)
    misses = [(first.flatten(1) @ w).softmax(1) - torch.eye(3)[y] for w in restless.drawn[:3]]
    gradient = sum(miss @ w.T for miss, w in zip(misses, restless.drawn[:3], strict=True)) / 3
    step = gradient.sign() if norm == "linf" else gradient / gradient.norm(dim=1, keepdim=True)
    delta = (first - x).flatten(1) + 2 * 0.01 * step
    over = delta.abs() if norm == "linf" else delta.norm(dim=1, keepdim=True)
    delta = torch.where(over > 0.4, delta * 0.4 / over, delta)
    torch.testing.assert_close(then, x + delta.view_as(x), rtol=1e-4, atol=1e-5)
    assert over.max() > 0.4 > over.min()


def test_more_draws_come_nearer_to_the_expected_gradient():
    draws = generator(6, "draws")

    def noisy(x: Tensor) -> Tensor:
        return linear(x + torch.randn((len(x), *SHAPE), generator=draws))

    x, y = images(40, reach=0.01), torch.zeros(40, dtype=torch.int64)
    few, many = (mean_gradient(noisy, x, y, eot) for eot in (1, 100))
    spread = [gradient.flatten(1).norm(dim=1).std() for gradient in (few, many)]
    assert spread[1] < spread[0] / 5  # a tenth, by the law of large numbers


def test_the_cost_is_what_the_denoiser_is_shown():
    shown = 0

    def eps(x: Tensor, t: int) -> Tensor:
        nonlocal shown
        shown += len(x)
        return 0.1 * x

    purification = Purification(t=6, sampler="ancestral", steps=3, copies=2)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
    shield = Shielded(purification, eps, Schedule(20, 0.005, 0.4, "linear"), classifier, seed=0)
    x, y = images(5), torch.zeros(5, dtype=torch.int64)
    found = attack(shield.attacked(range(5)), x, y, "linf", steps=4, eot=3)
    assert shown == cost(5, 4, 3, purification.evaluations) == 5 * 4 * 3 * 2 * 3
    assert distance(found - x, "linf").max() <= EPS["linf"] * (1 + 1e-5)


def test_apgd_is_missed_in_one_line(net, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack.autopgd_base", None)
    with pytest.raises(RunError, match=r"pip install 'bdiff\[attacks\]'"):
        apgd(net, images(), torch.zeros(6, dtype=torch.int64), ball=Ball("linf", 0.1), steps=1, eot=1, seed=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_stays_in_the_ball_and_raises_the_loss_as_far_as_pgd(net, norm):
    pytest.importorskip("pyautoattack", reason="an optional library")
    x, y = images(), torch.arange(6) % 4
    before = torch.random.get_rng_state()
    found, again = (apgd(net, x, y, ball=Ball(norm, EPS[norm]), steps=40, eot=2, seed=0) for _ in range(2))
    assert torch.equal(found, again) and torch.equal(torch.random.get_rng_state(), before)
    assert found.abs().max() <= 1 + 1e-6 and distance(found - x, norm).max() <= EPS[norm] * (1 + 1e-5)
    ours = cross_entropy(net(attack(net, x, y, norm)), y)
    assert float(cross_entropy(net(found), y)) == pytest.approx(float(ours), rel=0.01)
