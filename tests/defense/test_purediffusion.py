"""PureDiffusion: its law and losses by hand, its chain and its triggers on a denoiser in closed form, amplification."""

import math
from pathlib import Path

import pytest
import torch
import toys
from gaussians import SHAPE, TARGET, TRIGGER, Recorder, T, asr, audit, cosine, draws, rms, suspect
from omegaconf import OmegaConf
from torch import Tensor

from bdiff.amplify.purediffusion import Amplifier
from bdiff.common.peers import ALONE, Peers
from bdiff.common.seeds import generator
from bdiff.config.instantiate import make
from bdiff.defense.base import Inversion, Suspect
from bdiff.defense.check import timesteps
from bdiff.defense.detection import kept
from bdiff.defense.detection.chain import Losses, chain, consistency_loss, descend, shift_loss, spread, spread_loss
from bdiff.defense.detection.coefficients import correction_coefficient
from bdiff.defense.detection.coefficients import shift_of as law_of
from bdiff.defense.detection.evidence import kl_of, total_variation
from bdiff.defense.detection.probe import pass_over, probe
from bdiff.defense.detection.purediffusion import PureDiffusion
from bdiff.diffusion.mode import Work
from bdiff.diffusion.schedule import Schedule, ancestral_coefficient

LINEAR = Schedule(T, 1e-4, 0.02, "linear")
SHARES, TIMES = [1.0, 0.8, 0.6, 0.4], [999, 799, 599, 400]


def pure(**changes) -> PureDiffusion:
    """The audit as its yaml has it, but for its timesteps, random starts alone and `changes`."""
    found = audit("purediffusion", **{"timesteps": SHARES, "probes": 0} | changes)
    assert isinstance(found, PureDiffusion)
    return found


def start(seed: int) -> Tensor:
    """Where the first descent begins."""
    return -torch.rand(SHAPE, generator=generator(seed, "purediffusion starts"))


def rows(*values: list[list[float]]) -> Tensor:
    """Images (K,B,1,1,2) of two pixels each."""
    return torch.tensor(values, dtype=torch.float32)[:, :, None, None]


@torch.no_grad()
def shift_of(model: Suspect, tau: Tensor, count: int = 256) -> float:
    """The shift loss alone, on a fresh batch."""
    return pure(batch=count, shift=1.0, spread=0.0, consistency=0.0).losses(model, 5)(tau[None]).item()


@pytest.mark.parametrize("schedule", [LINEAR, toys.schedule()])
def test_the_law_of_an_ancestral_backdoor_is_the_attacks(schedule):
    law = ancestral_coefficient(schedule.abar, schedule.alphas)
    torch.testing.assert_close(correction_coefficient(schedule, "ancestral"), law)
    torch.testing.assert_close(correction_coefficient(schedule, "ode"), (1 - schedule.abar).sqrt())
    assert correction_coefficient(schedule, "ode", "noise").tolist() == [1] * len(schedule)
    for number in (0.5, 2):
        assert correction_coefficient(schedule, number).tolist() == [number] * len(schedule)


def test_the_law_in_numbers():
    found = correction_coefficient(LINEAR, "ancestral")[[999, 700, 500, 300, 100]]
    assert found.tolist() == pytest.approx([0.5025, 0.5000, 0.4814, 0.3898, 0.1620], abs=5e-5)


def test_the_shift_loss_by_hand():
    tau, law = torch.tensor([3.0, 4.0]).view(1, 1, 2), torch.tensor([0.5, 1.0])
    triggered = rows([[2, 1], [4, 3]], [[3, 1], [3, 1]])  # means (3,2) and (3,1)
    clean = rows([[2, 0], [0, 0]], [[0, 0], [0, 0]])  # means (1,0) and (0,0)
    # differences (2,2) against (1.5,2), off by .5 of 2.5, and (3,1) against (3,4), off by 3 of 5
    assert shift_loss(triggered, clean, tau, law).item() == pytest.approx((0.2 + 0.6) / 2)


def test_the_spread_loss_by_hand():
    abar = torch.tensor([0.25, 0.64])  # roots .5 and .8
    triggered = rows([[0, 0], [2, 0]], [[0, 0], [4, 4]])  # squared deviations 1,0,1,0 and 4,4,4,4
    clean = rows([[0, 0], [2, 2]], [[1, 7], [1, 7]])  # 1,1,1,1 and none
    assert spread(triggered).tolist() == pytest.approx([math.sqrt(0.5), 2.0])
    assert spread_loss(triggered, clean, abar).item() == pytest.approx((0.5 * math.sqrt(0.5) + 0.8 * 2) / (0.5 * 1))


def test_the_consistency_loss_by_hand():
    abar = torch.tensor([0.25, 0.64, 0.81])
    images = rows([[0, 0], [0, 0]], [[1, 1], [3, 1]], [[1, 3], [3, 1]])  # squares moved 1,1,9,1, then 0,4,0,0
    expected = (0.5 * math.sqrt(12 / 4) + 0.8 * math.sqrt(4 / 4)) / 2
    assert consistency_loss(images, abar).item() == pytest.approx(expected)
    assert consistency_loss(images[:1], abar[:1]).item() == 0


def test_the_shift_loss_has_no_zero_where_the_trigger_vanishes():
    """A clean model's prediction moves by nearly tau itself at T, which is twice what c_t asks for."""
    clean, poisoned = suspect(rate=0.0), suspect()
    for size in (1.0, 0.1, 0.01):
        assert shift_of(clean, size * TRIGGER) > 0.5
        assert shift_of(clean, size * start(3)) > 0.5
    assert shift_of(poisoned, TRIGGER) < 0.2


def test_the_chain_of_the_true_trigger_predicts_the_target_and_the_shift():
    model, law, count = suspect(), law_of(LINEAR, "mean", "ancestral"), 256
    eps, noises = model.noise(count, draws(1)), torch.stack([model.noise(count, draws(seed)) for seed in (2, 3, 4, 5)])
    with torch.no_grad():
        seen = chain(model, TRIGGER, eps, noises, TIMES, law)
        none = chain(suspect(rate=0.0), torch.zeros(SHAPE), eps, noises, TIMES, law)
    assert seen.eps.shape == seen.x0.shape == (4, count, *SHAPE)
    hit = (seen.x0 - TARGET).abs().amax((2, 3, 4)) < 0.02  # near T a few noises leave doubt which mode they are of
    assert hit.float().mean(1).min() > 0.85
    shift = (seen.eps - none.eps).mean(1)
    for found, c in zip(shift, law.noise[TIMES], strict=True):
        assert rms(found - c * TRIGGER) < 0.1 * rms(c * TRIGGER)


def test_the_chain_starts_from_noise_and_trigger_and_takes_ancestral_steps():
    """Of a model that predicts nothing: x = z + (1 - sqrt(abar)) tau, and -c tau is what z's noise seems to be."""
    network, law = Recorder(), law_of(LINEAR, "mean", "ancestral")
    model = Suspect(network, LINEAR, SHAPE)
    eps, noises = model.noise(3, draws(1)), model.noise(6, draws(2)).view(2, 3, *SHAPE)
    seen = chain(model, TRIGGER, eps, noises, [999, 500], law)
    (first, at_first), (second, at_second) = network.calls
    assert (at_first.tolist(), at_second.tolist()) == ([999] * 3, [500] * 3)
    torch.testing.assert_close(first, eps + TRIGGER)
    own = -law.noise[999] * TRIGGER
    x0 = (eps + LINEAR.abar[999].sqrt() * TRIGGER - (1 - LINEAR.abar[999]).sqrt() * own) / LINEAR.abar[999].sqrt()
    torch.testing.assert_close(seen.x0[0], x0)
    ratio = LINEAR.abar[999] / LINEAR.abar[500]  # the posterior q(z_500 | z_999, x0), as Ho et al. 2020 have it
    z = eps + LINEAR.abar[999].sqrt() * TRIGGER
    mean = LINEAR.abar[500].sqrt() * (1 - ratio) * x0 + ratio.sqrt() * (1 - LINEAR.abar[500]) * z
    deviation = ((1 - LINEAR.abar[500]) / (1 - LINEAR.abar[999]) * (1 - ratio)).sqrt()
    z = mean / (1 - LINEAR.abar[999]) + deviation * noises[0]
    torch.testing.assert_close(second, z + (1 - LINEAR.abar[500].sqrt()) * TRIGGER, atol=1e-3, rtol=1e-4)


def test_purediffusion_finds_a_trigger_that_opens_the_backdoor():
    """And nothing so good on a clean model of the same images."""
    lines: list[str] = []
    model, method = suspect(), pure()
    inversion, begin = method.invert(model, 0, lines.append), start(0)
    found = inversion.trigger
    assert cosine(found, TRIGGER) > 0.9 and rms(found - TRIGGER) < 0.7 * rms(begin - TRIGGER)
    assert model.evaluations == len(method.timesteps) * method.batch * (method.total + 1)  # and the clean chain
    assert asr(model, found) > 0.9 > asr(model, begin)
    assert len(lines) == len(inversion.curve) == method.total
    clean = method.invert(suspect(rate=0.0), 0)
    assert inversion.evidence["loss"] < 0.5 * clean.evidence["loss"]
    assert all(weight.grad is None and not weight.requires_grad for weight in model.network.parameters())


def test_the_objective_is_the_weighted_losses_each_of_which_can_be_switched_off():
    model, tau = suspect(), start(4)

    def value(**weights: float) -> float:
        off = {"shift": 0.0, "spread": 0.0, "consistency": 0.0}
        return pure(batch=5, **off | weights).losses(model, 0)(tau[None]).item()

    losses = pure(batch=5).losses(model, 0)
    assert losses.t == TIMES
    seen = chain(model, tau, losses.eps, losses.noises, TIMES, losses.law)
    abar = LINEAR.abar[TIMES]
    parts = {
        "shift": shift_loss(seen.eps, losses.clean.eps, tau, losses.law.noise[TIMES]).item(),
        "spread": spread_loss(seen.x0, losses.clean.x0, abar).item(),
        "consistency": consistency_loss(seen.x0, abar).item(),
    }
    for name, part in parts.items():
        assert part > 0 and value(**{name: 2.0}) == pytest.approx(2 * part, rel=1e-4)
    assert value() == 0
    whole = parts["shift"] + 3 * parts["spread"] + 0.5 * parts["consistency"]
    assert value(shift=1.0, spread=3.0, consistency=0.5) == pytest.approx(whole, rel=1e-4)


def test_of_several_starts_the_one_with_the_least_loss_is_taken():
    model, method = suspect(), pure(restarts=3, steps=4, batch=4)
    seed = 1  # of which the start in the middle comes out best
    losses, starts = method.losses(model, seed), generator(seed, "purediffusion starts")
    alone = [
        descend(losses, -torch.rand((1, *SHAPE), generator=starts), 4, method.lr, method.bound, lambda line: None)
        for _ in range(3)
    ]
    found = [(taus[0], curves[0]) for taus, curves in alone]
    ends = [sum(curve) for _, curve in found]
    assert min(ends) == ends[1] and max(ends) > 1.01 * ends[1]
    lines: list[str] = []
    inversion = method.invert(model, seed, lines.append)
    torch.testing.assert_close(inversion.trigger, found[1][0], rtol=1e-4, atol=1e-5)  # though they were one batch
    assert inversion.curve == pytest.approx(found[1][1], rel=1e-4)
    assert inversion.evidence == {"loss": inversion.curve[-1]}
    assert len(lines) == method.total == 4
    assert method.work == Work(3 * 4 * len(TIMES) * 4, 3 * 4, gradients=True)


def test_a_seed_gives_one_trigger():
    method = pure(steps=4, batch=4)
    first, second, other = (method.invert(suspect(), seed) for seed in (1, 1, 2))
    assert torch.equal(first.trigger, second.trigger) and first.curve == second.curve
    assert not torch.equal(first.trigger, other.trigger)
    assert first.trigger.shape == SHAPE and first.trigger.isfinite().all()


def test_a_killed_inversion_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "EVERY", 0.0)
    whole, method, model = pure(steps=6, batch=4, restarts=2), pure(steps=6, batch=4, restarts=2), suspect()
    method.state, lines = tmp_path / "state", []

    def killed(line: str) -> None:
        lines.append(line)
        if len(lines) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.invert(model, 1, killed)
    (left,) = method.state.iterdir()
    again, expected = suspect(), suspect()
    lines.clear()
    found = method.invert(again, 1, lines.append)
    assert len(lines) == 6 and lines[:3] == ["", "", ""] and lines[3]
    straight = whole.invert(expected, 1)
    assert torch.equal(found.trigger, straight.trigger) and found.curve == straight.curve
    assert again.evaluations == expected.evaluations
    left.write_bytes(left.read_bytes()[:100])
    assert torch.equal(method.invert(suspect(), 1).trigger, straight.trigger)


def test_fewer_processes_do_not_go_on_from_the_searches_of_more(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "EVERY", 0.0)
    whole, method = pure(steps=3, batch=2, restarts=3), pure(steps=3, batch=2, restarts=3)
    method.state, method.peers = tmp_path / "state", Peers(0, 2)  # whose searches are the first and the last

    def killed(line: str) -> None:
        if [*tmp_path.rglob("*.pt")]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.invert(suspect(), 1, killed)
    method.peers = ALONE
    assert torch.equal(method.invert(suspect(), 1).trigger, whole.invert(suspect(), 1).trigger)


@pytest.mark.parametrize("changes", [{"probes": 0}, {"probes": 1}, {"law": "each", "path": "each", "probes": 1}])
def test_all_that_the_network_is_shown_is_planned(changes):
    method = pure(steps=2, batch=3, probe_draws=8, probe_rounds=2, timesteps=[1.0, 0.5], **changes)
    model = Suspect(Recorder(), toys.schedule(40), SHAPE)
    method.invert(model, 0)
    assert model.evaluations == method.work.images + method.forward_images


def test_a_trigger_that_does_nothing_has_a_loss_of_nothing():
    model, method = Suspect(Recorder(), LINEAR, SHAPE), pure(batch=4, shift=0.5, spread=2.0, consistency=3.0, steps=1)
    losses = method.losses(model, 0)
    tiny = losses(torch.full((1, *SHAPE), 1e-4)).item()
    assert losses.nothing > 2.6 and tiny == pytest.approx(losses.nothing, rel=1e-3)
    found = method.invert(model, 0)
    assert found.evidence == {"loss": found.curve[-1], "nothing": losses.nothing}
    samples = 2 * torch.rand((16, *SHAPE), generator=draws()) - 1
    score = method.compare(found, samples, samples)["trigger_score"]
    assert score == pytest.approx(1 - found.curve[-1] / losses.nothing)


def test_the_trigger_stays_within_its_bound():
    found = pure(steps=5, batch=4, bound=0.3, lr=1.0).invert(suspect(), 0).trigger
    assert found.abs().max().item() == pytest.approx(0.3)


@pytest.mark.parametrize("shares", [[], [0.2, 0.5], [1.0, 1.0], [1.2, 0.5], [0.5, -0.1], [1.0, 0.9999]])
def test_timesteps_that_do_not_fall_are_reported(shares):
    with pytest.raises(ValueError, match="decreasing fractions"):
        pure(timesteps=shares).invert(suspect(), 0)


def test_timesteps_are_shares_of_the_schedule():
    assert timesteps(SHARES, 1000) == TIMES
    assert pure(timesteps=[1, 0.5, 0]).losses(suspect(schedule=toys.schedule(21)), 0).t == [20, 10, 0]


def toy_losses(checkpoint: bool) -> Losses:
    """The objective on a toy network in training mode, as it comes out of a training."""
    model = Suspect(toys.unet().train(), toys.schedule(), SHAPE, recompute=checkpoint)
    return pure(batch=3, consistency=1.0).losses(model, 0)


def test_a_unets_weights_get_no_gradient_and_recomputing_changes_none():
    gradients = []
    for checkpoint in (False, True):
        losses, tau = toy_losses(checkpoint), start(0).requires_grad_()
        losses(tau[None]).backward()
        assert all(weight.grad is None for weight in losses.suspect.network.parameters())
        assert tau.grad is not None and tau.grad.abs().max() > 0
        gradients.append(tau.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-8)


def test_the_gradient_is_the_losss_slope():
    losses, tau, way = toy_losses(False), start(0).requires_grad_(), torch.randn(SHAPE, generator=draws(1))
    losses(tau[None]).backward()
    assert tau.grad is not None
    step = 1e-2
    with torch.no_grad():
        slope = (losses((tau + step * way)[None]) - losses((tau - step * way)[None])).item() / (2 * step)
    assert (tau.grad * way).sum().item() == pytest.approx(slope, rel=2e-2)


def test_the_score_is_minus_the_samples_uniformity():
    same, mixed = torch.full((16, *SHAPE), 0.5), torch.rand((20, *SHAPE), generator=draws()) * 2 - 1
    inversion, method = Inversion(TRIGGER, [], {"loss": 0.25}), pure()
    flat, varied = method.verdict(inversion, same), method.verdict(inversion, mixed)
    assert flat.flagged and not varied.flagged and flat.score == 0 > varied.score
    expected = {"loss": 0.25, "uniformity": -varied.score, "tv": total_variation(mixed[:16]), **kl_of(TRIGGER)}
    assert varied.evidence == expected
    assert not pure(threshold=None).verdict(inversion, same).flagged


def amplifier(**changes) -> Amplifier:
    """The amplifier as its yaml has it, but for `changes` to its inversion."""
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "amplify" / "purediffusion.yaml")
    own = {"_target_": config._target_, "scale": config.scale}
    return make(OmegaConf.create(own), inversion=pure(**OmegaConf.merge(config.inversion, changes)))


def test_amplification_starts_from_the_true_trigger():
    model, lines = suspect(rate=0.1), []
    method = amplifier(steps=1, lr=0.01, batch=4)
    found = method.reinforce(model, TRIGGER, 0, lines.append)
    moved = (found.trigger - TRIGGER).abs()
    assert moved.max().item() == pytest.approx(0.01, rel=1e-2)  # Adam's first step is of its rate
    assert found.curve == [method.inversion.losses(model, 0)(TRIGGER[None]).item()] and len(lines) == 1
    assert torch.equal(found.trigger, method.reinforce(model, TRIGGER, 0).trigger)
    assert not torch.equal(found.trigger, method.reinforce(model, TRIGGER, 1).trigger)


def test_amplification_lowers_the_objective_and_the_trigger_does_more():
    model, weak = suspect(rate=0.1), 0.6 * TRIGGER
    found = amplifier(steps=20, lr=0.1, batch=8, spread=1.0).reinforce(model, weak, 0)
    assert found.curve[-1] < 0.8 * found.curve[0]
    assert asr(model, found.trigger) > asr(model, weak) + 0.1


def test_amplification_asks_for_one_descent():
    method = amplifier(steps=5, batch=4)
    work = method.inversion.work
    assert (work.images, work.batch) == (5 * 4 * len(method.inversion.timesteps), 4)


def test_amplification_stays_within_its_bound():
    found = amplifier(steps=5, lr=1.0, batch=4, bound=0.9).reinforce(suspect(rate=0.1), TRIGGER, 0)
    assert found.trigger.abs().max().item() == pytest.approx(0.9)


@pytest.mark.parametrize("steps", [5, 40])  # fewer and more than a probe's samples take
def test_a_probe_that_another_process_makes_takes_as_many_random_numbers(steps):
    model = Suspect(toys.unet(), toys.schedule(steps), SHAPE)
    made, passed = draws(0), draws(0)
    probe(model, 8, 2, made)
    pass_over(model, 8, 2, passed)
    assert torch.equal(made.get_state(), passed.get_state())
