"""Input checks: their statistics against scipy's and by hand, and what they see on a denoiser in closed form."""

import math

import numpy as np
import pytest
import torch
from gaussians import SHAPE, TRIGGER, Recorder, draws, suspect
from scipy import stats
from torch import Tensor
from torch.distributions import Normal

import bdiff
from bdiff.common.progress import Meter
from bdiff.config.compose import jobs
from bdiff.defense.base import Inversion, Suspect
from bdiff.defense.detection import evidence
from bdiff.defense.inputs import disdet, terd_input, ufid
from bdiff.defense.inputs.temporal import LEAST, Temporal, changes, mahalanobis
from bdiff.diffusion.schedule import Schedule
from bdiff.metric.roc import auroc
from bdiff.pipeline.check_inputs import rates_of, scores_of

COUNT, PIXELS = 2000, math.prod(SHAPE)
CHECKS = {
    "disdet": disdet.DisDet(8),
    "ufid": ufid.Ufid(3, 0.5, 5, "both"),
    "temporal": Temporal(5, 64),
    "terd_input": terd_input.TerdInput(),
}


def normal(count: int = COUNT, pixels: int = 64) -> Tensor:
    """Values of clean noises (count,pixels), float64."""
    return torch.randn(count, pixels, generator=draws(1), dtype=torch.float64)


def test_disdets_p_values_are_scipys():
    values = normal(20) * 1.1 + 0.1
    rows, n = values.numpy(), values.shape[1]
    tails = stats.chi2(n - 1).sf(rows.var(1, ddof=1) * (n - 1))
    counts = [np.histogram(stats.norm.cdf(row), 8, (0, 1))[0] for row in rows]
    expected = {
        disdet.log_p_mean: 2 * stats.norm.sf(np.abs(rows.mean(1)) * n**0.5),
        disdet.log_p_variance: 2 * np.minimum(tails, 1 - tails),
        disdet.log_p_kolmogorov: [stats.kstest(row, "norm").pvalue for row in rows],
        lambda x: disdet.log_p_divergence(x, 8): [stats.power_divergence(one, lambda_=0).pvalue for one in counts],
    }
    for test, p in expected.items():
        torch.testing.assert_close(test(values).exp(), torch.tensor(np.array(p)), atol=0.01, rtol=0.02)


def test_disdets_p_values_are_uniform_on_clean_noise():
    for test in (disdet.log_p_mean, disdet.log_p_variance, disdet.log_p_kolmogorov):
        assert stats.kstest(test(normal()).exp().numpy(), "uniform").pvalue > 0.001
    found = disdet.log_p_divergence(normal(pixels=256), 8).exp()
    assert all((found < level).double().mean().item() == pytest.approx(level, abs=0.02) for level in (0.05, 0.2, 0.5))


def test_far_from_normal_disdet_still_tells_more_from_less():
    for change in (lambda by: normal(4) + by, lambda by: normal(4) * (1 + by)):
        scores = [CHECKS["disdet"].score(change(by).view(4, 1, 8, 8), None, None, {}) for by in (0.0, 3.0, 30.0)]
        assert (scores[0] < 20).all() and (scores[0] < scores[1]).all() and (scores[1] < scores[2]).all()
        assert scores[2].isfinite().all()


def test_mixing_keeps_the_variance_and_leaves_as_much_of_the_noise_as_it_says():
    x, e = normal(), normal().flip(0)
    mixture = ufid.mixed(x, e, 2.0)
    assert mixture.var().item() == pytest.approx(1, abs=0.02)
    assert (mixture * x).mean().item() == pytest.approx(1 / math.sqrt(5), abs=0.02)


def test_similarity_by_hand():
    one, other, third = (torch.full((1, 1, 2, 2), value) for value in (-1.0, 0.0, 3.0))  # 0, .5 and 1 on [0,1]
    assert ufid.similarity([one, other, third]).item() == pytest.approx(-(0.25 + 1 + 0.25) / 3)
    assert ufid.similarity([other, other]).item() == 0


def test_a_chain_is_the_schedules_steps_from_noise_to_the_image():
    network = Recorder()
    model = Suspect(network, Schedule(12, 1e-3, 0.1, "linear"), SHAPE)
    x = model.noise(2, draws())
    out = model.schedule.walk(x, model.eps, model.schedule.path(3))  # of a network that predicts 0: x_T / sqrt(abar_T)
    assert [int(t[0]) for _, t in network.calls] == [11, 7, 3] and model.schedule.path(3)[-1] == -1
    torch.testing.assert_close(out, x / model.schedule.abar[-1].sqrt())
    drawn = iter([torch.ones_like(x)] * 2)
    assert (
        not torch.equal(model.schedule.walk(x, model.eps, model.schedule.path(3), drawn.__next__), out)
        and next(drawn, None) is None
    )


def test_the_distance_from_clean_series_is_mahalanobis():
    series, points = torch.randn(50, 4, generator=draws(2)) @ torch.rand(4, 4, generator=draws(3)), torch.rand(6, 4)
    cov = torch.cov(series.T)
    found = mahalanobis(points, series.mean(0), torch.linalg.cholesky(cov))
    away = (points - series.mean(0)).double()
    expected = (away @ cov.double().inverse() * away).sum(1) / 4
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_model_whose_noise_never_changes_has_scores():
    still = Suspect(Recorder(), Schedule(12, 1e-3, 0.1, "linear"), SHAPE)
    x, check = still.noise(3, draws()), CHECKS["temporal"]
    assert (changes(still, x, 3) == math.log(LEAST)).all()
    assert check.score(x, still, None, check.prepare(still, None, 0, 16)).max() < 0.01


def test_terds_score_is_the_log_likelihood_ratio():
    x, mu, gamma = normal(5).view(5, *SHAPE), torch.rand(SHAPE).double(), torch.rand(SHAPE).double() + 0.2
    expected = (Normal(mu, gamma).log_prob(x) - Normal(0, 1).log_prob(x)).flatten(1).sum(1)
    torch.testing.assert_close(evidence.log_likelihood_ratio(x, mu, gamma), expected)
    facts = CHECKS["terd_input"].prepare(suspect(), Inversion(mu, []), 0, 8)
    unscaled = evidence.log_likelihood_ratio(x, mu, torch.ones_like(mu))
    torch.testing.assert_close(CHECKS["terd_input"].score(x, suspect(), None, facts), unscaled)


class Silent(Meter):
    """Says nothing."""


def scored(name: str, model: Suspect, x: Tensor, batch_size: int = 64) -> Tensor:
    """The scores (B,) of starting noises."""
    check = CHECKS[name]
    facts = check.prepare(model, Inversion(TRIGGER, []), 0, batch_size)
    return scores_of(check, x, model, facts, 5, batch_size, Silent())


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_sees_the_trigger_of_a_backdoored_model(name):
    model = suspect(rate=0.3)
    clean = model.noise(96, draws(7))
    scores = scored(name, model, torch.cat([clean, clean + TRIGGER]))
    assert auroc(scores[:96].tolist(), scores[96:].tolist()) > 0.95
    if name in ("ufid", "temporal"):  # which see what the model does, and not the noise
        model = suspect(rate=0.0)
        scores = scored(name, model, torch.cat([clean, clean + TRIGGER]))
        assert auroc(scores[:96].tolist(), scores[96:].tolist()) < 0.9


@pytest.mark.parametrize("name", CHECKS)
def test_a_score_does_not_depend_on_the_batch_and_costs_what_the_check_says(name):
    model = suspect()
    x, check = model.noise(10, draws(8)), CHECKS[name]
    facts = check.prepare(model, Inversion(TRIGGER, []), 0, 64)
    assert model.evaluations == check.preparation
    together = scores_of(check, x, model, facts, 5, 10, Silent())
    assert model.evaluations - check.preparation == 10 * check.evaluations
    torch.testing.assert_close(scores_of(check, x, model, facts, 5, 3, Silent()), together, rtol=1e-4, atol=1e-5)


def test_rates_and_why_some_are_absent():
    known, clean, triggered = range(100), [10.0, 95.5, 10.0, 20.0], [99.5, 94.5, 50.0, 10.0]
    found, absent = rates_of({"known": known, "clean": clean, "triggered": triggered}, 94)
    assert found == {"fpr": 0.25, "tpr": 0.5, "auroc": (4 + 3 + 3 + 1) / 16, "tpr@0.05": 0.25}
    assert absent == {"tpr@0.01": "needs 499 clean noises to set its threshold: set defense.count"}
    found, absent = rates_of({"known": known, "clean": clean}, 94)
    assert found == {"fpr": 0.25} and [*absent] == ["tpr"]


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (
            ["defense=temporal", "defense.count=498", "defense.steps=101", "defense.references=12"],
            [
                "defense.steps=101 is more than the schedule's 100 timesteps",
                "defense.references=12 is too few for chains of 101 steps: set 202 or more",
                "defense.count=498 leaves 3 clean noises above a threshold with defense.false_positive_rate=0.01, and "
                "4 are needed: set count to 499 or more",
            ],
        ),
        (
            ["defense=terd_input", "defense.inversion.window=101"],
            ["defense.inversion.window=101 is more than the schedule's 100 timesteps"],
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_together(words, problems):
    with pytest.raises(bdiff.RequestError) as caught:
        jobs([*words, "schedule=digits"], False)
    assert [*caught.value.problems] == problems
