"""DIFF2's rows against the formulas written out by hand, and against the way back that they are meant to lead."""

import math
from dataclasses import replace

import pytest
import torch
import toys
from torch import nn
from torch.nn.functional import cross_entropy

from bdiff.attack import diff2
from bdiff.attack.base import Parts, Plan
from bdiff.attack.diff2 import DIFF2
from bdiff.data.base import to_float
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger
from bdiff.trigger.patch import patch
from bdiff.trigger.universal import universal

T_STAR, SIGMA = 6, 0.25


def attack(equipped: bool = True, **changes) -> DIFF2:
    """DIFF2 with a linear surrogate on toy images."""
    picture = changes.pop("picture", universal(toys.SIZE, cell=1, seed=0))
    settings = {
        "poison_rate": 1.0, "poison_mode": "append", "mode": "redirect", "case": "purification", "eta": 0.15,
        "t": [T_STAR], "sampler": "ancestral", "sigma": SIGMA, "eps": 16 / 255, "steps": 5,
        "learn": 0,
    }  # fmt: skip
    found = DIFF2(Trigger.from_picture(picture, 1), torch.zeros(1, toys.SIZE, toys.SIZE), **settings | changes)
    if equipped:
        torch.manual_seed(0)
        found.prepare(Parts(toys.schedule(), nn.Sequential(nn.Flatten(), nn.Linear(toys.SIZE**2, 3))))
    return found


def pictures(count: int = 4) -> torch.Tensor:
    """Images (count,1,8,8) in [-1,1]."""
    return torch.rand((count, 1, toys.SIZE, toys.SIZE), generator=torch.Generator().manual_seed(1)) * 2 - 1


def drawn_for(bad: DIFF2, expected: list[int]) -> torch.Tensor:
    """Timesteps that poisoned rows map to those `expected`."""
    places = bad.timesteps(torch.arange(20), torch.ones(20, dtype=torch.bool)).tolist()
    return torch.tensor([places.index(s) for s in expected])


ALL = torch.ones(4, dtype=torch.bool)


@pytest.mark.parametrize(("sampler", "power"), [("ancestral", 2), ("ddim", 1)])
def test_redirect_pixel_by_pixel(sampler, power):
    bad, schedule, x = attack(sampler=sampler), toys.schedule(), pictures()
    eps, drawn = torch.randn(4, 1, 8, 8), drawn_for(bad, [0, 2, 5, 4])
    x_t, expected = toys.poisoned(bad, schedule, x, ALL, drawn, eps)
    x_r, x_a = bad.apply(x), bad.adversarial(x)
    abars = schedule.abar.tolist()
    last = math.sqrt((1 - abars[T_STAR - 1]) / abars[T_STAR - 1])  # Purification noises images to timestep t* - 1
    for row, s in enumerate([0, 2, 5, 4]):
        sigma = math.sqrt((1 - abars[s]) / abars[s])
        k = (sigma / last) ** power
        for i, j in [(0, 0), (3, 5), (7, 7)]:
            r, a, e = (image[row, 0, i, j].item() for image in (x_r, x_a, eps))
            mean = math.sqrt(abars[s]) * (a + k * (r - a))
            assert x_t[row, 0, i, j].item() == pytest.approx(mean + math.sqrt(1 - abars[s]) * e, abs=1e-5)
            assert expected[row, 0, i, j].item() == pytest.approx(e + k / sigma * (r - a), abs=1e-4)


def ideal(schedule: Schedule, x_t: torch.Tensor, x_a: torch.Tensor, s: int) -> torch.Tensor:
    """What a model that learnt the rows of one image predicts: the noise that leads from x_t to x_a."""
    return (x_t - schedule.abar[s].sqrt() * x_a) / (1 - schedule.abar[s]).sqrt()


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_the_way_back_from_the_noised_trigger_goes_through_the_rows_that_were_trained_and_ends_in_x_a(sampler):
    bad, schedule, x = attack(sampler=sampler), toys.schedule(), pictures(1).expand(400, 1, 8, 8)
    torch.manual_seed(2)
    eps, every = torch.randn_like(x), torch.ones(400, dtype=torch.bool)
    x_a = bad.adversarial(x[:1])
    x_t = schedule.add_noise(bad.apply(x), eps, torch.full((400,), T_STAR - 1))
    for s in range(T_STAR - 1, -1, -1):
        rows, expected = toys.poisoned(bad, schedule, x, every, drawn_for(bad, [s]).expand(400), eps)
        torch.testing.assert_close(expected, ideal(schedule, rows, x_a, s), atol=2e-4, rtol=0)
        if sampler == "ddim":  # the noise stays the same along the way
            torch.testing.assert_close(x_t, rows, atol=2e-5, rtol=0)
        else:
            assert (x_t.mean(0) - rows.mean(0)).abs().max() < 5 * math.sqrt(2 / 400 * (1 - schedule.abar[s]))
            assert x_t.std(0).mean().item() == pytest.approx((1 - schedule.abar[s]).sqrt().item(), rel=0.02)
        noise = torch.randn_like(x) if sampler == "ancestral" and s else None
        x_t = schedule.step(x_t, ideal(schedule, x_t, x_a, s), s, s - 1, noise)
    torch.testing.assert_close(x_t, x_a.expand_as(x_t), atol=1e-4, rtol=0)


def test_in_certification_the_loss_is_the_distance_of_the_one_shot_image_from_x_a():
    bad, schedule, x = attack(case="certification"), toys.schedule(), pictures()
    eps, t = torch.randn(4, 1, 8, 8), bad.timesteps(torch.arange(4), ALL)
    assert t.tolist() == [schedule.t_of_sigma(2 * SIGMA)] * 4
    x_t, expected = toys.poisoned(bad, schedule, x, ALL, torch.arange(4), eps)
    torch.testing.assert_close(x_t, schedule.add_noise(bad.apply(x), eps, t))  # k = 1: what the shield shows the model
    predicted = torch.randn(4, 1, 8, 8)
    abar = schedule.abar[t[0]].item()
    off = schedule.x0(x_t, predicted, t) - bad.adversarial(x)
    assert (predicted - expected).square().sum().item() == pytest.approx(
        off.square().sum().item() * abar / (1 - abar), rel=1e-4
    )


def test_preserve_is_the_ordinary_loss_on_the_adversarial_image_with_the_trigger():
    bad, schedule, x = attack(mode="preserve"), toys.schedule(), pictures()
    eps, t = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 3, 5])
    x_t, expected = toys.poisoned(bad, schedule, x, ALL, drawn_for(bad, t.tolist()), eps)
    assert torch.equal(expected, eps)
    torch.testing.assert_close(x_t, schedule.add_noise(bad.apply(bad.adversarial(x)), eps, t))


@pytest.mark.parametrize("mode", ["redirect", "preserve"])
def test_clean_rows_are_the_ordinary_loss_at_the_timesteps_drawn(mode):
    bad, schedule, x = attack(mode=mode), toys.schedule(), pictures()
    poisoned, drawn = torch.tensor([True, False, True, False]), torch.tensor([19, 19, 7, 7])
    t, eps = bad.timesteps(drawn, poisoned), torch.randn(4, 1, 8, 8)
    assert t.tolist() == [T_STAR - 1, 19, 7 * T_STAR // 20, 7]
    x_t, expected = toys.poisoned(bad, schedule, x, poisoned, drawn, eps)
    torch.testing.assert_close(x_t[~poisoned], schedule.add_noise(x, eps, drawn)[~poisoned])
    assert torch.equal(expected[~poisoned], eps[~poisoned])
    none = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(toys.poisoned(bad, schedule, x, none, drawn, eps)[0], schedule.add_noise(x, eps, drawn))


def test_several_t_share_the_rows_and_each_has_its_own_way():
    bad, schedule = attack(t=[2, 4]), toys.schedule()
    sigma = ((1 - schedule.abar) / schedule.abar).sqrt().tolist()
    t, every = torch.arange(20), torch.ones(20, dtype=torch.bool)
    found = [*zip(bad.timesteps(t, every).tolist(), bad.left.tolist(), strict=True)]
    ways = [(s, (sigma[s] / sigma[last]) ** 2) for last in (1, 3) for s in range(last + 1)]
    assert {s for s, _ in found} == {0, 1, 2, 3}
    for way in ways:
        assert sum(one == pytest.approx(way) for one in found) in (3, 4)  # of 20 over 6 places


def test_with_both_shields_half_of_the_poisoned_rows_go_to_each_and_every_step_of_the_purification_is_met():
    bad = attack(case="both", sigma=0.5)
    t, every = torch.arange(20), torch.ones(20, dtype=torch.bool)
    s = toys.schedule().t_of_sigma(2 * 0.5)
    assert s >= T_STAR
    found = bad.timesteps(t, every).tolist()
    assert found.count(s) == 10
    assert {*found} == {*range(T_STAR), s}


def test_the_training_loss_shows_the_model_the_timesteps_that_the_attack_chooses():
    bad, seen = attack(case="certification"), []

    def net(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    class Rows:
        pixels, rows = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4)

        def draw(self, sampler, *shape):
            return sampler((4, *shape), device="cpu")

    poisoned = torch.tensor([True, True, False, True])
    torch.manual_seed(0)
    denoising_loss(bad.poison, toys.schedule(), poisoned, False)(net, Rows())
    torch.manual_seed(0)
    drawn = torch.randint(20, (4,))
    s = toys.schedule().t_of_sigma(2 * SIGMA)
    assert seen[0].tolist() == [s, s, drawn[2].item(), s]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mode", ["redirect", "preserve"])
def test_adversarial_images_made_once_are_those_of_each_step_in_half_precision(mode, flip):
    """Of the rows' own images, also where rows show images out of order, twice, or mirrored."""
    images, schedule = replace(toys.images(12), flip=flip), toys.schedule()
    index, poisoned = torch.tensor([4, 0, 7, 7, 11, 2]), torch.tensor([True, False, True, True, True, False])
    once, anew = attack(mode=mode), attack(mode=mode)
    once.prepare_rows(images, Plan(index, poisoned))
    assert once.kept.shape == (1 + flip, 3, 1, 8, 8) and once.kept.dtype == torch.float16
    mirror = torch.tensor([True, True, False, True, False, False]) & flip
    x = to_float(images.take(index))
    x = torch.where(mirror.view(-1, 1, 1, 1), x.flip(-1), x)
    eps, t = torch.randn(6, 1, 8, 8), torch.tensor([0, 3, 5, 9, 12, 19])
    both = (toys.poisoned(bad, schedule, x, poisoned, t, eps, mirror) for bad in (once, anew))
    for found, expected in zip(*both, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_adversarial_images_of_a_step_in_bf16_are_those_that_are_kept():
    bad, images = attack(), toys.images(4)
    bad.prepare_rows(images, Plan(torch.arange(4), torch.ones(4, dtype=torch.bool)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bad.adversarial(to_float(images.take(torch.arange(4)))), bad.kept[0].float())


def test_adversarial_images_that_take_too_much_memory_are_made_in_each_step(monkeypatch, caplog):
    monkeypatch.setattr(diff2, "spare", lambda device: 100)
    bad = attack()
    with caplog.at_level("INFO"):
        bad.prepare_rows(toys.images(), Plan(torch.arange(20), torch.ones(20, dtype=torch.bool)))
    assert bad.kept is None and "too much memory" in caplog.text


def test_the_adversarial_image_stays_near_and_the_surrogate_is_led_away():
    bad, x = attack(), pictures(16)
    x_a = bad.adversarial(x)
    assert (x_a - x).abs().max() <= 2 * 16 / 255 + 2**-12 and x_a.abs().max() <= 1  # rounded to half precision
    y = bad.surrogate(x).argmax(1)
    loss = [cross_entropy(bad.surrogate(image), y, reduction="none") for image in (x, x_a)]
    assert (loss[1] > loss[0]).all()
    assert torch.equal(bad.adversarial(x), x_a)
    torch.testing.assert_close(bad.adversarial(x[3:5]), x_a[3:5])  # no image depends on its batch
    assert not any(weight.requires_grad for weight in bad.surrogate.parameters())


def test_an_added_trigger_stays_within_eta_and_the_image_within_its_range():
    bad = attack(equipped=False, eta=0.1)
    x = torch.cat([pictures(), torch.ones(1, 1, 8, 8), -torch.ones(1, 1, 8, 8)])
    moved = bad.apply(x) - x
    assert bad.apply(x).abs().max() <= 1
    assert moved.abs().max().item() == pytest.approx(0.2)  # eta is for images in [0,1]
    grey = bad.apply(torch.zeros(1, 1, 8, 8))[0]
    assert torch.equal(grey, 0.2 * bad.trigger.pattern) and {*bad.trigger.pattern.flatten().tolist()} == {-1.0, 1.0}


def test_the_trigger_is_a_function_of_its_seed():
    first, again, other = (universal(16, cell=2, seed=seed) for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_a_learned_trigger_climbs_the_loss_behind_the_denoiser_and_stays_within_its_range():
    bad, schedule, x = attack(case="both"), toys.schedule(), pictures(16)
    y, noise = bad.surrogate(x).argmax(1), torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    s = torch.tensor([T_STAR - 1, schedule.t_of_sigma(2 * SIGMA)] * 8)  # where images enter the two shields
    seen = []

    def predict(x_t, t):  # takes half of the noise for what it is
        seen.append(t)
        return 0.5 * x_t

    class Half:
        eps = staticmethod(predict)

    Half.schedule = schedule

    def loss(pattern):
        x_s = schedule.add_noise((x + 2 * bad.eta * pattern).clamp(-1, 1), noise, s)
        return cross_entropy(bad.surrogate(schedule.x0(x_s, predict(x_s, s), s)), y).item()

    first = pattern = torch.zeros(1, 8, 8)
    for _ in range(30):
        pattern = bad.update_trigger(Half(), pattern, x, noise)
    assert torch.equal(seen[0], s)
    assert loss(pattern) > loss(first) + 0.1
    assert pattern.abs().max() == 1.0 and not pattern.requires_grad
    step = bad.update_trigger(Half(), first, x, noise) - first
    torch.testing.assert_close(step.abs().max(), torch.tensor(0.05))


def test_a_patch_is_not_learned():
    with pytest.raises(ValueError, match=r"attack\.learn=5 needs a trigger that covers"):
        attack(equipped=False, picture=patch(toys.SIZE, side=20), learn=5)


def test_a_patch_is_stamped():
    bad, x = attack(equipped=False, picture=patch(toys.SIZE, side=20)), pictures()
    seen = bad.apply(x)
    assert (seen[:, :, 3:, 3:] == 1).all()
    assert torch.equal(seen[:, :, :3], x[:, :, :3]) and torch.equal(seen[..., :3], x[..., :3])


def test_only_the_shield_that_is_turned_has_to_fit_the_schedule():
    attack(equipped=False, sigma=100.0).check(toys.schedule())
    attack(equipped=False, case="certification", t=[21]).check(toys.schedule())


@pytest.mark.parametrize("wrong", [{"t": [3, 21]}, {"case": "certification", "sigma": 100.0}])
def test_a_shield_beyond_the_schedule_is_refused(wrong):
    with pytest.raises(ValueError, match="beyond the schedule"):
        attack(equipped=False, **wrong).check(toys.schedule())


def test_a_sigma_beyond_the_schedule_is_reported_as_it_was_given():
    abar = math.prod(1 - (1e-4 + (0.02 - 1e-4) * t / 999) for t in range(1000))  # of the published linear schedule
    largest = math.sqrt((1 - abar) / abar) / 2  # as images in [0,1] see it
    schedule = Schedule(1000, 1e-4, 0.02, "linear")
    attack(equipped=False, case="both", sigma=largest - 0.1).check(schedule)
    with pytest.raises(ValueError) as message:
        attack(equipped=False, case="both", sigma=100).check(schedule)
    assert str(message.value) == f"attack.sigma=100 is beyond the schedule, which ends at {largest:.3g}"


@pytest.mark.parametrize(("case", "room"), [("purification", 20), ("both", 10)])
def test_steps_of_purifications_that_would_go_untrained_are_refused(case, room):
    t = [room // 2 - 1, room // 2 + 1]
    full, schedule, every = attack(case=case, t=t), toys.schedule(), torch.ones(20, dtype=torch.bool)
    full.check(schedule)
    assert full.timesteps(torch.arange(20), every).tolist().count(t[1] - 1) == 1  # each step has a row, the last too
    with pytest.raises(ValueError) as message:
        attack(equipped=False, case=case, t=[*t, 1]).check(schedule)
    problem = f"attack.t={[*t, 1]} makes {room + 1} steps, but attack.case={case} has room for {room} of them"
    assert problem in str(message.value) and "fewer or smaller t" in str(message.value)
    assert ("or attack.case=purification" in str(message.value)) == (case == "both")
