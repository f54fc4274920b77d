"""Certification: Cohen's statistics at known values, his table and its analysis, noise, a closed form, exact resume."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
import toys
from scipy.stats import beta, binom

from bdiff.defense.shields import cohen
from bdiff.defense.shields.certification import Certification
from bdiff.defense.shields.sequential import LAST, looks
from bdiff.defense.shields.votes import BLOCK, Certificate, Votes, noises
from bdiff.report import certified_figure as picture
from bdiff.report.charts import COLOURS

SHAPE = (1, 8, 8)


@pytest.mark.parametrize(
    ("hits", "n", "alpha"), [(1, 10, 0.1), (7, 10, 0.05), (840, 1000, 0.001), (99_990, 100_000, 0.001)]
)
def test_the_bound_is_where_so_many_hits_are_just_unlikely_enough(hits, n, alpha):
    bound = cohen.lower_bound(hits, n, alpha)
    assert binom.sf(hits - 1, n, bound) == pytest.approx(alpha, rel=1e-4)
    assert bound == pytest.approx(beta.ppf(alpha, hits, n - hits + 1), abs=1e-9)


def test_the_bound_of_none_and_of_all():
    assert cohen.lower_bound(0, 100, 0.001) == 0
    assert cohen.lower_bound(100, 100, 0.001) == pytest.approx(0.001 ** (1 / 100), abs=1e-9)


def test_the_fewest_votes_that_certify_at_cohens_settings():
    guess, n = torch.tensor([3, 97]), 100_000
    few, enough = (cohen.certify(guess, torch.tensor([n - hits, hits]), 0.001, 0.25) for hits in (50_489, 50_490))
    assert few == (cohen.ABSTAIN, 0.0)
    assert enough[0] == 1
    assert 0 <= enough[1] < 1e-4


def test_the_largest_radius_at_cohens_settings():
    label, radius = cohen.certify(torch.tensor([0, 0, 100]), torch.tensor([0, 0, 100_000]), 0.001, 1.0)
    assert label == 2
    assert radius == pytest.approx(3.811, abs=5e-4)
    assert radius == pytest.approx(NormalDist().inv_cdf(0.001 ** (1 / 100_000)), abs=1e-6)


def test_the_label_is_chosen_by_the_first_votes_alone():
    assert cohen.certify(torch.tensor([60, 40]), torch.tensor([10, 990]), 0.001, 0.5) == (cohen.ABSTAIN, 0.0)
    assert cohen.certify(torch.tensor([40, 60]), torch.tensor([10, 990]), 0.001, 0.5)[0] == 1


TABLE = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t0.5\t1\t0:00:01.5
20\t1\t2\t0.9\t0\t0:00:01.5
40\t2\t2\t0.25\t1\t0:00:01.5
60\t7\t-1\t0.0\t0\t0:00:01.5
80\t7\t7\t0\t1\t0:00:02
"""


def test_a_table_is_read_as_cohen_reads_it(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text(TABLE)
    rows = cohen.read(path)
    assert rows[1] == cohen.Row(20, 1, 2, 0.9, 0, "0:00:01.5")
    assert cohen.certified_accuracy(rows, [0, 0.25, 0.2501, 0.5, 0.6]) == [3 / 5, 2 / 5, 1 / 5, 1 / 5, 0]
    assert cohen.acr(rows) == pytest.approx((0.5 + 0.25) / 5)


def test_what_is_written_is_read_back():
    row = cohen.Row(7, 1, 1, 0.123456, 1, "0:00:00.012345")
    assert cohen.row(cohen.text(row)[:-1]) == row
    assert cohen.text(row) == "7\t1\t1\t0.123456\t1\t0:00:00.012345\n"


def test_a_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "other.tsv"
    path.write_text("step\tloss\n1\t0.5\n")
    with pytest.raises(ValueError, match=r"other\.tsv is not a table of certified images"):
        cohen.read(path)


@pytest.mark.parametrize("batch", [1, 7, BLOCK, 130, 1000])
def test_noise_is_a_function_of_the_draw(batch):
    shape, draws = (1, 3, 3), range(30, 290)  # 9 pixels: torch's own stream depends on how it is cut
    whole = noises(shape, draws, seed=1, index=5)
    firsts = range(draws.start, draws.stop, batch)
    parts = [noises(shape, range(first, min(first + batch, draws.stop)), 1, 5) for first in firsts]
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole) == len(draws) == len(whole.flatten(1).unique(dim=0))
    for seed, index in [(2, 5), (1, 6)]:
        assert not torch.isclose(noises(shape, draws, seed, index), whole).any(1).all()
    assert whole.std() == pytest.approx(1, abs=0.05)


def no_noise(x: torch.Tensor, t: int) -> torch.Tensor:
    """The denoiser that sees none: it gives an image back as it is."""
    return torch.zeros_like(x)


def first_pixel(x: torch.Tensor) -> torch.Tensor:
    """A linear classifier: label 1 if the first pixel is above 0.1."""
    above = x[:, 0, 0, 0] - 0.1
    return torch.stack([-above, above], dim=1)


def counted(logits, image: torch.Tensor, draws: int, batch: int = 500, index: int = 0, seed: int = 0) -> torch.Tensor:
    """How many noisy copies of one image get each label."""
    votes = []

    def count():
        votes.append((yield draws))
        return Certificate(0, 0.0, draws)

    (end,) = Votes(logits, image[None], 0.25, batch, seed).run([(0, index, count())])
    assert end[:2] == (0, Certificate(0, 0.0, draws))
    return torch.from_numpy(votes[0])


def certificate(method: Certification, logits, image: torch.Tensor, index: int = 0, label: int = 1) -> Certificate:
    """The certificate of one image."""
    votes = Votes(logits, image[None], method.sigma, method.batch_size, 0)
    ((_, found, _),) = votes.run([(0, index, method.count(label))])
    return found


def cohens(**changes) -> Certification:
    """Certification with the fixed number of draws, unless changes say otherwise."""
    settings = {"sigma": 0.25, "n0": 100, "n": 1000, "alpha": 0.001, "batch_size": 500, "stop": "never", "radii": [0.0]}
    return Certification(**settings | changes)


def test_the_radius_is_the_distance_to_a_linear_classifiers_boundary():
    """Smoothing a half-space leaves it as it is (Cohen et al., appendix), and clamping moves nothing across 0.1."""
    method = cohens(n=20_000, batch_size=5000)
    logits = method.behind(no_noise, toys.schedule(), first_pixel)
    for value in (0.3, 0.5, 0.7):
        label, radius, draws = certificate(method, logits, torch.full(SHAPE, value), index=int(10 * value))
        distance = (value - 0.1) / 2  # in [0,1] units
        assert (label, draws) == (1, 20_100)
        assert 0.9 * distance - 0.005 < radius < distance
        expected = 20_000 * NormalDist().cdf(distance / 0.25)
        votes = counted(logits, torch.full(SHAPE, value), 20_000, 5000, index=1)
        assert votes.sum() == 20_000
        assert votes[1].item() == pytest.approx(expected, abs=5 * math.sqrt(20_000) / 2)


def test_an_image_on_the_boundary_is_abstained_from():
    assert certificate(cohens(), first_pixel, torch.full(SHAPE, 0.1)) == (cohen.ABSTAIN, 0.0, 1100)


def test_the_denoiser_is_asked_at_the_noise_that_was_added():
    schedule, image, sigma = toys.schedule(), torch.full(SHAPE, 0.4), 0.25
    ratios = ((1 - schedule.abar) / schedule.abar).sqrt()
    seen, shown = [], []

    def knowing(x, t):
        """The perfect denoiser of one image."""
        assert ratios[t - 1] < 2 * sigma <= ratios[t]
        seen.append(x)
        return (x - schedule.abar[t].sqrt() * image) / (1 - schedule.abar[t]).sqrt()

    def classifier(x):
        shown.append(x)
        return first_pixel(x)

    logits = cohens().behind(knowing, schedule, classifier)
    assert counted(logits, image, 1000, 300).tolist() == [0, 1000]
    torch.testing.assert_close(torch.cat(shown), image.expand(1000, *SHAPE))
    noisy = torch.cat(seen) / schedule.abar[method_t(schedule, sigma)].sqrt() - image
    assert noisy.std() == pytest.approx(2 * sigma, rel=0.01)
    assert [len(batch) for batch in seen] == [300, 300, 300, 100]


def method_t(schedule, sigma: float) -> int:
    """The first timestep as noisy as sigma, by search."""
    return next(t for t, abar in enumerate(schedule.abar.tolist()) if math.sqrt((1 - abar) / abar) >= 2 * sigma)


def test_what_is_denoised_is_clamped():
    def classifier(x):
        assert x.min() == -1
        assert x.max() == 1
        return first_pixel(x)

    counted(cohens().behind(no_noise, toys.schedule(), classifier), torch.zeros(SHAPE), 1000)


def test_a_sigma_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match="beyond the schedule"):
        cohens(sigma=1e6).behind(no_noise, toys.schedule(), first_pixel)


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_the_batch_size_does_not_change_the_votes(batch):
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    counts = [counted(first_pixel, image, 500, size, index=9, seed=3) for size in (100, batch)]
    assert torch.equal(*counts)
    assert counts[0].min() > 0


def certified(path, logits=first_pixel, **changes):
    """The rows of five images, every second one of a label that is wrong."""
    images = torch.linspace(-0.4, 0.9, 5).view(5, 1, 1, 1).expand(5, *SHAPE)
    labels, indices = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([40, 0, 10, 30, 20])
    method = cohens(**{"n0": 50, "n": 200, "batch_size": 100} | changes)
    return method.run(logits, images, labels, indices, path, seed=0)


def timeless(rows) -> list[cohen.Row]:
    """Rows without the time they took."""
    return [row._replace(time="") for row in rows]


def test_rows_come_in_the_images_order_and_say_what_is_right(tmp_path):
    rows = certified(tmp_path / "rows.tsv")
    assert rows == cohen.read(tmp_path / "rows.tsv")
    assert [row.idx for row in rows] == [40, 0, 10, 30, 20]
    assert [row.predict for row in (rows[0], rows[3], rows[4])] == [0, 1, 1]
    assert [row.correct for row in (rows[0], rows[3], rows[4])] == [1, 0, 1]
    assert all(row.correct == (row.predict == row.label) for row in rows)


#: what the code wrote before images shared batches, less the times
BEFORE = [
    (40, 0, 0, "0.165813", 1), (0, 1, 0, "0.0649096", 0), (10, 1, -1, "0", 0), (30, 0, 1, "0.144004", 0),
    (20, 1, 1, "0.245757", 1),
]  # fmt: skip


@pytest.mark.parametrize("batch", [7, 100, 1000])
def test_rows_have_the_figures_that_they_always_had(tmp_path, batch):
    rows = certified(tmp_path / "rows.tsv", batch_size=batch)
    assert [(row.idx, row.label, row.predict, f"{row.radius:.6g}", row.correct) for row in rows] == BEFORE


def test_batches_are_filled_across_images(tmp_path):
    sizes = []

    def watching(x):
        sizes.append(len(x))
        return first_pixel(x)

    certified(tmp_path / "rows.tsv", watching, batch_size=120)
    assert sum(sizes) == 5 * 250 and sizes[:8] == [120] * 8  # the last images are too few to fill any


def test_rows_are_in_the_file_as_they_come_and_in_the_images_order(tmp_path):
    path, calls = tmp_path / "rows.tsv", []

    def dying(x):
        calls.append(path.read_text().count("\n") - 1)
        if len(calls) == 11:
            raise toys.Killed
        return first_pixel(x)

    with pytest.raises(toys.Killed):
        certified(path, dying)
    assert calls == sorted(calls) and calls[0] == 0 and calls[-1] >= 2
    assert [row.idx for row in cohen.read(path)] == [40, 0, 10, 30, 20][: calls[-1]]


@pytest.mark.parametrize("stop", ["never", "radii"])
@pytest.mark.parametrize("cut", [10, len(cohen.HEADER), len(cohen.HEADER) + 3, -1, -8, -40])
def test_a_killed_run_goes_on_and_certifies_no_image_twice(tmp_path, cut, stop):
    whole = certified(tmp_path / "whole.tsv", stop=stop)
    path, calls = tmp_path / "killed.tsv", []
    path.write_text((tmp_path / "whole.tsv").read_text()[:cut])
    kept = len([line for line in path.read_text().splitlines(keepends=True)[1:] if line.endswith("\n")])

    def counting(x):
        calls.append(len(x))
        return first_pixel(x)

    resumed = certified(path, counting, stop=stop)
    assert timeless(resumed) == timeless(whole)
    assert sum(calls) == sum(row.draws or 250 for row in whole[kept:])
    assert path.read_text().startswith(cohen.HEADER if stop == "never" else cohen.OURS)
    assert sorted(row.idx for row in cohen.read(path)) == [0, 10, 20, 30, 40]
    assert certified(path, counting, stop=stop) == resumed
    assert sum(calls) == sum(row.draws or 250 for row in whole[kept:])


#: n, alpha, sigma, radii
PLANS = [
    (1000, 0.001, 0.25, [0.25, 0.5]), (20_000, 0.001, 0.25, [0.25, 0.5]), (1000, 0.001, 0.25, [0.0, 0.25, 0.5]),
    (1000, 0.001, 0.5, [0.0, 0.25, 0.5, 0.75, 1.0]), (400, 0.05, 0.25, [0.1]), (50, 0.01, 1.0, [0.0, 0.5]),
    (10_000, 0.001, 0.25, [0.0, 0.25, 0.5, 0.75]),
]  # fmt: skip


@pytest.mark.parametrize(("n", "alpha", "sigma", "radii"), PLANS)
def test_the_probability_of_a_wrong_certificate_is_at_most_alpha(n, alpha, sigma, radii):
    """Exactly, over all looks: the hits' distribution goes from look to look, less what has been certified before."""
    plan = looks(n, alpha, sigma, radii)
    assert plan[-1] == (n, LAST * alpha) and sum(look.alpha for look in plan) <= alpha * (1 + 1e-12)
    for radius in radii:
        expected = cohen.probability(radius, sigma)
        p = expected - 1e-9  # the radius is just beyond what is true
        alive, wrong, before = np.ones(1), 0.0, 0
        for draws, level in plan:
            alive = np.convolve(alive, binom.pmf(np.arange(draws - before + 1), draws - before, p))
            certifies = np.array([cohen.lower_bound(hits, draws, level) >= expected for hits in range(draws + 1)])
            wrong, alive, before = wrong + alive[certifies].sum(), np.where(certifies, 0, alive), draws
        assert 0 < wrong <= alpha


@pytest.mark.parametrize(("p", "n"), [(0.9, 1000), (0.6, 1000), (0.999, 1000), (0.97, 5000), (0.86, 5000)])
def test_stopping_early_certifies_what_the_fixed_number_does_with_fewer_draws(p, n):
    """Over images whose votes are drawn with a known probability: few differ, more where p is near 0.841 of 0.25."""
    radii, draws = [0.25, 0.5], np.random.default_rng(0)
    early, late = (cohens(n=n, stop=stop, radii=radii) for stop in ("radii", "never"))
    used, differing = 0, 0
    for _ in range(300):
        stream = draws.random(n + 100) < p
        answers = [counted_from(stream, method.count(1)) for method in (early, late)]
        used += answers[0].draws
        differing += [answers[0].radius >= r for r in radii] != [answers[1].radius >= r for r in radii]
        assert answers[0].draws <= answers[1].draws == n + 100
    assert differing <= (30 if p == 0.86 else 3)
    assert used / 300 < (1 if p == 0.86 else 0.8) * (n + 100)


def counted_from(stream: np.ndarray, count) -> Certificate:
    """The certificate of an image of whose draws the label 1 gets those that `stream` says."""
    at, expected = 0, next(count)
    while True:
        hits = int(stream[at : at + expected].sum())
        at += expected
        try:
            expected = count.send(np.array([expected - hits, hits]))
        except StopIteration as end:
            return end.value


def test_a_wrong_guess_ends_an_image_with_its_guess():
    wrong = certificate(cohens(stop="radii"), first_pixel, torch.full(SHAPE, 0.9), label=0)
    assert wrong == (1, 0.0, 100)


def test_radii_that_cannot_be_reached_cost_no_draws():
    assert looks(100, 0.001, 0.25, [2.0]) == []
    found = certificate(cohens(n=100, stop="radii", radii=[2.0]), first_pixel, torch.full(SHAPE, 0.9))
    assert found == (cohen.ABSTAIN, 0.0, 100)


def test_the_picture_draws_every_curve_under_its_name(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(picture, "save", lambda figure, path, dpi: drawn.append(figure))
    path = tmp_path / "rows.tsv"
    path.write_text(TABLE)
    radii = [0.0, 0.25, 0.5, 0.75]
    clean = cohen.certified_accuracy(cohen.read(path), radii)
    none = [0.2, 0, 0, 0]
    curves = {("ours", "clean"): clean, ("ours", "triggered"): none, ("theirs", "triggered"): none}
    picture.certified(tmp_path / "certified.png", "digits", radii, curves, points=False)
    (axes,) = drawn[0].axes
    assert [(line.get_label(), line.get_color(), line.get_linestyle()) for line in axes.lines] == [
        ("ours, clean", COLOURS[0], "-"), ("ours, triggered", COLOURS[0], "--"), ("theirs, triggered", COLOURS[1], "--")
    ]  # fmt: skip
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.6], [0.25, 0.4], [0.5, 0.2], [0.75, 0]]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["ours, clean", "ours, triggered", "theirs, triggered"]
