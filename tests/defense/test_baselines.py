"""Elijah and TERD: their losses by hand, their triggers on a denoiser in closed form, and what they look at."""

import math

import pytest
import torch
import toys
from diffusers import DDIMScheduler
from gaussians import SHAPE, TARGET, TRIGGER, Recorder, T, asr, audit, cosine, draws, rms, suspect
from torch import Tensor

from bdiff.attack.baddiffusion import BadDiffusion
from bdiff.common.errors import RunError
from bdiff.common.seeds import generator
from bdiff.defense.base import Inversion, Suspect
from bdiff.defense.detection.elijah import elijah_loss
from bdiff.defense.detection.evidence import kl_of, total_variation, uniformity
from bdiff.defense.detection.terd import ddim, is_backdoored, terd_loss
from bdiff.diffusion.schedule import Schedule
from bdiff.trigger.base import Trigger

QUICK = {"elijah": {}, "terd": {"steps": 300, "refine_steps": 20}}


def started(name: str, seed: int) -> Tensor:
    """An audit's trigger before the first step."""
    none = {"steps": 0, "refine_steps": 0} if name == "terd" else {"steps": 0}
    return audit(name, **none).invert(suspect(), seed).trigger


@pytest.mark.parametrize("t", [60, 500, 999])
def test_the_closed_form_is_the_best_prediction_of_what_the_attack_trains(t):
    """A conditional mean leaves an error that no function of x_t explains."""
    model, count = suspect(rate=0.4), 40_000
    component = torch.randint(3, (count,), generator=draws(1))
    x0 = model.network.means[component] + 0.5 * torch.randn((count, *SHAPE), generator=draws(2))
    poisoned = torch.rand(count, generator=draws(4)) < 0.4
    attack = BadDiffusion(Trigger(TRIGGER, torch.zeros(SHAPE)), TARGET, 0.4, "replace")
    times = torch.full((count,), t)
    eps = torch.randn(x0.shape, generator=draws(5))
    x, required = toys.poisoned(attack, model.schedule, x0, poisoned, times, eps)
    predicted = model.eps(x, times)
    error = required - predicted
    for explanation in (torch.ones_like(x), x, predicted, x.tanh(), model.network.posterior(x, times)[0][-1]):
        product = error * explanation
        doubt = product.std(0) / math.sqrt(count)
        assert (product.mean(0).abs() < 5 * doubt + 1e-5).all()  # where the mode is certain, rounding is all there is


def test_the_closed_form_has_a_backdoor_that_sampling_opens():
    assert asr(suspect(), TRIGGER) > 0.9
    assert asr(suspect(rate=0.0), TRIGGER) == 0.0


def test_elijahs_loss_by_hand():
    predicted = torch.tensor([[1.0, 3.0], [3.0, -1.0]]).view(2, 1, 1, 2)  # mean over the batch: 2, 1
    tau = torch.tensor([2.0, -4.0]).view(1, 1, 2)  # half of it: 1, -2; off by 1 and 3
    assert elijah_loss(predicted, tau, 0.5).item() == pytest.approx(2.0)
    assert elijah_loss(predicted, tau, 1.0).item() == pytest.approx((0 + 5) / 2)


def test_terds_loss_by_hand():
    eps = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 0.0], [1.0, 1.0]]).view(4, 1, 1, 2)
    predicted = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]).view(4, 1, 1, 2)
    # errors (1,1), (-1,0) against (2,-2), (1,0): differences (-1,3), (-2,0), squares 10 and 4
    assert terd_loss(eps, predicted).item() == pytest.approx(0.5 * (10 + 4) / 2)


def test_terd_descends_as_computed_by_hand_where_the_model_says_nothing():
    """A model that predicts 0 leaves the L1 term alone to move mu, by known steps; the loss is E||e1 - e2||^2 / 2."""
    model = Suspect(Recorder(), Schedule(T, 1e-4, 0.02, "linear"), SHAPE)
    pixels, start = 64, started("terd", 0)
    inversion = audit("terd", steps=40, refine_steps=9, gamma=0.01, batch=64).invert(model, 0)
    rates = 0.5 * (40 + 1) / 2, 0.5 * (9 + 1) / 2  # what a cosine from .5 to 0 adds up to
    clipped = 0.01 / math.sqrt(pixels)  # the gradient's norm is .01 * 8 before
    torch.testing.assert_close(inversion.trigger, start - 0.01 * rates[0] - clipped * rates[1])
    first = torch.tensor(inversion.curve[0]) + 0.01 * start.abs().sum()
    assert first.item() == pytest.approx(pixels, rel=0.05)
    assert len(inversion.curve) == 49


def test_terd_looks_at_both_ends_of_the_schedule_and_at_its_own_images():
    network = Recorder()
    model = Suspect(network, Schedule(T, 1e-4, 0.02, "linear"), SHAPE)
    audit("terd", steps=2, refine_steps=1, batch=5).invert(model, 0)
    rows = [len(x) for x, _ in network.calls]
    assert rows == [10, 10, *[5] * 10, 10, 10] and model.evaluations == sum(rows)
    estimated, made, refined, began = (network.calls[first:end] for first, end in ((0, 2), (2, 12), (12, 13), (13, 14)))
    assert all(t.min() >= 990 for _, t in (*estimated, *refined))
    assert [t.unique().tolist() for _, t in made] == [[t] for t in range(900, -1, -100)]
    ((x, t),) = began
    assert t.max() < 10 and x.abs().max() < 1.3  # an image: mu, which reaches -1, is not added
    assert all((t[:5] == t[5:]).all() for _, t in (*estimated, *refined, *began))


def test_terds_images_are_those_of_diffusers_ddim():
    model = suspect()
    x = model.noise(4, draws()) + TRIGGER
    scheduler = DDIMScheduler(**model.schedule.config)
    scheduler.set_timesteps(10)
    expected = x
    with torch.no_grad():
        for t in scheduler.timesteps:
            expected = scheduler.step(model.network(expected, t)[0], t, expected).prev_sample
        torch.testing.assert_close(ddim(model, x, 10), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", QUICK)
def test_an_audit_finds_a_trigger_that_opens_the_backdoor(name):
    """So does nothing on a clean model of the same images."""
    lines: list[str] = []
    model, clean = suspect(), suspect(rate=0.0)
    method = audit(name, **QUICK[name])
    inversion, start = method.invert(model, 0, lines.append), started(name, 0)
    found = inversion.trigger
    assert cosine(found, TRIGGER) > 0.85 and rms(found - TRIGGER) < 0.8 * rms(start - TRIGGER)
    assert asr(model, found) > 0.9 > asr(model, start)
    assert len(lines) == len(inversion.curve) and min(inversion.curve) < 0.1 * inversion.curve[0]
    assert rms(method.invert(clean, 0).trigger) < 0.9 * rms(found)
    assert all(weight.grad is None and not weight.requires_grad for weight in model.network.parameters())


def test_elijahs_trigger_is_the_fixed_point_that_the_closed_form_has():
    """Where the backdoor is active the prediction is (eps + tau - sqrt(abar) y - (1 - sqrt(abar)) r)/b + c r."""
    model = suspect()
    found = audit("elijah").invert(model, 0).trigger
    abar, alpha = model.schedule.abar[-1], model.schedule.alphas[-1]
    b = (1 - abar).sqrt()
    drift = abar.sqrt() * TARGET + (1 - abar.sqrt()) * TRIGGER
    eps = model.noise(100, generator(0, "elijah")).mean(0)
    expected = ((drift - eps) / b - b / (1 + alpha.sqrt()) * TRIGGER) / (1 / b - 0.5)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)  # no nearer: Adam's last steps are still of .1


def test_terd_moves_along_the_trigger_and_no_other_way():
    """Off the barrier either answer explains its own noise, so all that the loss sees is how far along r mu lies."""
    moved = audit("terd", **QUICK["terd"]).invert(suspect(), 0).trigger - started("terd", 0)
    assert cosine(moved, TRIGGER) > 0.99


@pytest.mark.parametrize("name", QUICK)
def test_a_seed_gives_one_trigger(name):
    method = audit(name, **dict.fromkeys(QUICK[name], 8), batch=6)
    first, second, other = (method.invert(suspect(), seed) for seed in (1, 1, 2))
    assert torch.equal(first.trigger, second.trigger) and first.curve == second.curve
    assert not torch.equal(first.trigger, other.trigger)
    assert first.trigger.shape == SHAPE and first.trigger.isfinite().all()


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_unets_weights_get_no_gradient(name, checkpoint):
    unet = toys.unet().train()
    before = [weight.clone() for weight in unet.parameters()]
    model = Suspect(unet, toys.schedule(), SHAPE, recompute=checkpoint)
    inversion = audit(name, **dict.fromkeys(("steps", *QUICK[name]), 2), batch=3).invert(model, 0)
    assert not torch.equal(inversion.trigger, started(name, 0))
    assert all(weight.grad is None for weight in unet.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, unet.parameters(), strict=True))


def test_terd_that_leaves_the_numbers_is_reported():
    with pytest.raises(RunError, match=r"lower its lr=1e\+30"):
        audit("terd", steps=50, lr=1e30).invert(suspect(), 0)


def test_kl_by_hand():
    kl = kl_of(torch.tensor([[[0.0, -2.0], [2.0, 0.0]]]))  # tau^2 / 2: 0, 2, 2, 0
    assert kl == {"kl_mean": pytest.approx(1.0), "kl_variance": pytest.approx(1.0)}


def test_uniformity_agrees_with_a_loop_over_pairs():
    samples = torch.rand((11, *SHAPE), generator=draws()) * 2 - 1
    rows = []
    for a in samples:
        row = sorted(((a - b) / 2).square().mean().item() for b in samples)
        rows.append(sum(row[2:-2]) / 7)
    assert uniformity(samples, trim=2) == pytest.approx(sum(sorted(rows)[2:-2]) / 7, rel=1e-5)


def test_uniformity_forgets_outliers_takes_another_distance_and_asks_for_enough():
    samples = torch.full((16, *SHAPE), 0.3)
    samples[:4] = torch.rand((4, *SHAPE), generator=draws())
    assert uniformity(samples) == 0.0
    samples[4] = -1.0
    assert uniformity(samples) > 0.0
    assert uniformity(samples, distance=lambda a, b: torch.full((len(a),), 7.0)) == pytest.approx(7.0)
    with pytest.raises(ValueError, match="8 samples are too few to trim 4 at both ends: draw 9"):
        uniformity(samples[:8])


def test_total_variation_by_hand():
    samples = torch.tensor([[[-1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])[:, None]
    assert total_variation(samples) == pytest.approx((1.0 + 0.0 + 0.5 + 0.5) / 2)


def test_looks_scores_and_thresholds():
    same = torch.full((16, *SHAPE), 0.5)
    mixed = torch.rand((20, *SHAPE), generator=draws()) * 2 - 1
    inversion = Inversion(TRIGGER, [], {"restarts": 2.0})
    elijah, terd = audit("elijah"), audit("terd")
    flat, varied = elijah.verdict(inversion, same), elijah.verdict(inversion, mixed)
    assert flat.flagged and not varied.flagged and flat.score > varied.score
    assert varied.evidence == {"restarts": 2.0, "uniformity": -varied.score, "tv": total_variation(mixed[:16])}
    found = terd.verdict(inversion, mixed)
    mean = 0.75 * 0.32
    assert found.score == pytest.approx(mean + mean * 0.08)  # the variance of .32 at 3 of 4 pixels: .32^2 * 3/16
    assert found.evidence == {"restarts": 2.0, **kl_of(TRIGGER)}
    assert not audit("elijah", threshold=None).verdict(inversion, same).flagged
    assert terd.verdict(Inversion(-torch.ones(SHAPE), []), mixed).flagged


def test_the_input_check_by_hand_and_by_its_rate():
    mu = torch.tensor([2.0, 0.0]).view(1, 1, 2)
    x = torch.tensor([[1.5, 9.0], [0.5, 0.0], [1.0, -3.0]]).view(3, 1, 1, 2)  # nearer to mu, to 0, to neither
    assert is_backdoored(x, mu).tolist() == [True, False, False]
    noise = torch.randn((20_000, *SHAPE), generator=draws())
    small = 0.3 * TRIGGER
    wrong = 0.5 * math.erfc(small.norm().item() / 2 / math.sqrt(2))  # N(0,1) beyond half the distance
    assert is_backdoored(noise, small).float().mean().item() == pytest.approx(wrong, abs=0.015)
    assert (~is_backdoored(noise + small, small)).float().mean().item() == pytest.approx(wrong, abs=0.015)


def test_the_yamls_hold_the_authors_numbers():
    terd = {"steps": 3000, "refine_steps": 1000, "batch": 16, "lr": 0.5, "gamma": 5e-5, "clip_norm": 0.01}
    terd |= {"window": 10, "ddim_steps": 10}
    elijah = {"shift": 0.5, "steps": 100, "batch": 100, "lr": 0.1, "samples": 16, "trim": 4}
    elijah |= {"start": [-1.0, 0.0], "family": None, "affine": False}
    authors = {"elijah": elijah, "terd": terd}
    for name, numbers in authors.items():
        assert vars(audit(name)) == numbers | {"threshold": audit(name).threshold}
