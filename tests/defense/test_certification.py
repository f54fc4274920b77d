"""Certification: Cohen's statistics at known values, his table and its analysis, noise, a closed form, exact resume."""

import math
from statistics import NormalDist

import pytest
import torch
import toys
from matplotlib import pyplot as plt
from scipy.stats import beta, binom

from bdiff.defense import cohen
from bdiff.defense.certification import BLOCK, Certification, noises
from bdiff.report import certified as picture
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
    with pytest.raises(ValueError, match=r"other\.tsv is no table of certified images"):
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


def test_the_radius_is_the_distance_to_a_linear_classifiers_boundary():
    """Smoothing a half-space leaves it as it is (Cohen et al., appendix), and clamping moves nothing across 0.1."""
    method = Certification(sigma=0.25, n0=100, n=20_000, alpha=0.001, batch_size=5000)
    logits = method.behind(no_noise, toys.schedule(), first_pixel)
    for value in (0.3, 0.5, 0.7):
        label, radius = method.certify(logits, torch.full(SHAPE, value), seed=0, index=int(10 * value))
        distance = (value - 0.1) / 2  # in [0,1] units
        assert label == 1
        assert 0.9 * distance - 0.005 < radius < distance
        wanted = 20_000 * NormalDist().cdf(distance / 0.25)
        votes = method.votes(logits, torch.full(SHAPE, value), range(20_000), seed=0, index=1)
        assert votes.sum() == 20_000
        assert votes[1].item() == pytest.approx(wanted, abs=5 * math.sqrt(20_000) / 2)


def test_an_image_on_the_boundary_is_abstained_from():
    method = Certification(sigma=0.25, n0=100, n=1000, alpha=0.001, batch_size=500)
    assert method.certify(first_pixel, torch.full(SHAPE, 0.1), seed=0, index=0) == (cohen.ABSTAIN, 0.0)


def test_the_denoiser_is_asked_at_the_noise_that_was_added():
    schedule, image, sigma = toys.schedule(), torch.full(SHAPE, 0.4), 0.25
    method = Certification(sigma, n0=10, n=1000, alpha=0.001, batch_size=300)
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

    logits = method.behind(knowing, schedule, classifier)
    assert method.votes(logits, image, range(1000), seed=0, index=0).tolist() == [0, 1000]
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

    method = Certification(sigma=0.5, n0=10, n=100, alpha=0.001, batch_size=50)
    method.votes(method.behind(no_noise, toys.schedule(), classifier), torch.zeros(SHAPE), range(100), 0, 0)


def test_a_sigma_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match="beyond the schedule"):
        Certification(1e6, 10, 100, 0.001, 50).behind(no_noise, toys.schedule(), first_pixel)


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_the_batch_size_does_not_change_the_votes(batch):
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    counts = [
        Certification(0.25, 10, 500, 0.001, size).votes(first_pixel, image, range(10, 510), seed=3, index=9)
        for size in (100, batch)
    ]
    assert torch.equal(*counts)
    assert counts[0].min() > 0


def certified(path, logits=first_pixel, **options):
    """The rows of five images, every second one of a label that is wrong."""
    images = torch.linspace(-0.4, 0.9, 5).view(5, 1, 1, 1).expand(5, *SHAPE)
    labels, indices = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([40, 0, 10, 30, 20])
    method = Certification(sigma=0.25, n0=50, n=200, alpha=0.001, batch_size=100)
    return method.run(logits, images, labels, indices, path, seed=0, **options)


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


class Killed(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


def test_every_row_is_in_the_file_before_the_next_image(tmp_path):
    path, lines = tmp_path / "rows.tsv", []

    def watching(x):
        lines.append(path.read_text().count("\n"))
        if len(lines) == 14:
            raise Killed
        return first_pixel(x)

    with pytest.raises(Killed):
        certified(path, watching)
    assert lines == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]  # a batch of guesses and two of others for each image
    assert [row.idx for row in cohen.read(path)] == [40, 0, 10, 30]


@pytest.mark.parametrize("cut", [10, len(cohen.HEADER), len(cohen.HEADER) + 3, -1, -8, -40])
def test_a_killed_run_goes_on_and_certifies_no_image_twice(tmp_path, cut):
    whole = certified(tmp_path / "whole.tsv")
    path, calls = tmp_path / "killed.tsv", []
    path.write_text((tmp_path / "whole.tsv").read_text()[:cut])
    kept = len([line for line in path.read_text().splitlines(keepends=True)[1:] if line.endswith("\n")])

    def counting(x):
        calls.append(len(x))
        return first_pixel(x)

    resumed = certified(path, counting)
    assert timeless(resumed) == timeless(whole)
    assert sum(calls) == (5 - kept) * 250
    assert path.read_text().startswith(cohen.HEADER)
    assert sorted(row.idx for row in cohen.read(path)) == [0, 10, 20, 30, 40]
    assert certified(path, counting) == resumed
    assert sum(calls) == (5 - kept) * 250


def test_the_picture_draws_every_curve_under_its_name(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(picture, "save", lambda figure, path, dpi: drawn.append(figure))
    path = tmp_path / "rows.tsv"
    path.write_text(TABLE)
    radii = [0.0, 0.25, 0.5, 0.75]
    clean = cohen.certified_accuracy(cohen.read(path), radii)
    none = [0.2, 0, 0, 0]
    curves = {("ours", "clean"): clean, ("ours", "triggered"): none, ("theirs", "triggered"): none}
    picture.certified(tmp_path / "certified.png", "digits", radii, curves)
    (axes,) = drawn[0].axes
    assert [(line.get_label(), line.get_color(), line.get_linestyle()) for line in axes.lines] == [
        ("ours, clean", COLOURS[0], "-"), ("ours, triggered", COLOURS[0], "--"), ("theirs, triggered", COLOURS[1], "--")
    ]  # fmt: skip
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.6], [0.25, 0.4], [0.5, 0.2], [0.75, 0]]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["ours, clean", "ours, triggered", "theirs, triggered"]
    plt.close(drawn[0])
