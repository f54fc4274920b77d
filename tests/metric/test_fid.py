"""The Fréchet distance against its formula, streaming, kept moments, and where Inception weights come from."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

import bdiff.metric.fid.inception as inception
from bdiff.classifier.small_cnn import SmallCNN
from bdiff.common.errors import RequestError
from bdiff.metric.fid.base import Features, Frechet
from bdiff.metric.fid.base import distance as frechet_distance
from bdiff.metric.fid.classifier import ClassifierFeatures
from bdiff.metric.fid.moments import Moments


@pytest.fixture
def features() -> ClassifierFeatures:
    torch.manual_seed(0)
    return ClassifierFeatures(SmallCNN(channels=1, classes=4, width=8), {"key": "k", "accuracy": 0.9}).eval()


def pictures(seed: int, count: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(40 * seed, 256, (count, 1, 16, 16), generator=generator).to(torch.uint8)


def distance(features: Features, real: list[torch.Tensor], fake: list[torch.Tensor]) -> float:
    frechet = Frechet(features, torch.device("cpu"))
    frechet.feed(real, real=True)
    frechet.feed(fake, real=False)
    return frechet.value()


def moments_of(features: Features, real: torch.Tensor) -> Moments:
    frechet = Frechet(features, torch.device("cpu"))
    frechet.feed([real], real=True)
    return frechet.reference


@torch.no_grad()
def test_it_agrees_with_the_formula_in_float64(features):
    real, fake = pictures(0), pictures(2)
    a, b = (features(x).double().numpy() for x in (real, fake))
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root.real)
    assert distance(features, [real], [fake]) == pytest.approx(expected, rel=1e-6)


def test_batches_do_not_matter(features):
    whole = distance(features, [pictures(0)], [pictures(2)])
    assert distance(features, list(pictures(0).split(7)), list(pictures(2).split(13))) == pytest.approx(whole, rel=1e-5)


def test_an_image_set_is_at_no_distance_from_itself(features):
    assert distance(features, [pictures(0)], [pictures(0)]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("count", [60, 2, None])
def test_kept_moments_stand_for_the_images(features, count):
    """Whatever the count: published files do not tell it, and the distance does not depend on it."""
    kept = moments_of(features, pictures(0))
    assert kept.count == 60
    frechet = Frechet(features, torch.device("cpu"))
    frechet.reference = replace(kept, count=count)
    frechet.feed([pictures(2)], real=False)
    assert frechet.value() == pytest.approx(distance(features, [pictures(0)], [pictures(2)]), rel=1e-6)


@torch.no_grad()
def test_moments_are_the_mean_and_the_unbiased_covariance(features):
    frechet = Frechet(features, torch.device("cpu"))
    frechet.feed(pictures(0).split(7), real=True)
    activations = features(pictures(0)).double().numpy()
    np.testing.assert_allclose(frechet.reference.mu, activations.mean(0), rtol=1e-6)
    np.testing.assert_allclose(frechet.reference.sigma, np.cov(activations, rowvar=False), rtol=1e-5, atol=1e-9)


@torch.no_grad()
def test_activations_are_kept_up_to_a_number_and_all_are_counted(features):
    frechet = Frechet(features, torch.device("cpu"), keep=25)
    frechet.feed(pictures(2).split(7), real=False)
    frechet.reference = moments_of(features, pictures(0))
    torch.testing.assert_close(frechet.activations, features(pictures(2))[:25])
    assert frechet.value() == pytest.approx(distance(features, [pictures(0)], [pictures(2)]), rel=1e-5)


def test_the_classifier_s_distance_has_its_own_name_and_says_where_it_is_from(features):
    assert features.suffix == "_classifier"
    assert features.identity() == {"extractor": "SmallCNN", "resize": "none", "key": "k", "accuracy": 0.9}


def test_inception_reads_the_file_it_is_given(weights):
    path, digest = weights
    before = torch.hub.get_dir()
    features = inception.InceptionFeatures(str(path), digest[:8]).eval()
    assert torch.hub.get_dir() == before
    with torch.no_grad():
        grey = features(pictures(0, 2))
        colour = features(pictures(0, 2).expand(-1, 3, -1, -1))
        logits = features.logits(grey)
    assert grey.shape == (2, 2048)
    torch.testing.assert_close(grey, colour)
    assert features.identity()["sha256"] == digest
    saved = torch.load(path, weights_only=True)
    torch.testing.assert_close(logits, grey @ saved["fc.weight"].T)
    kept = features.network.state_dict()
    assert torch.equal(kept["blocks.0.0.conv.weight"], saved["Conv2d_1a_3x3.conv.weight"])


def test_other_weights_than_asked_for_are_refused(weights):
    with pytest.raises(RequestError, match="sha256"):
        inception.InceptionFeatures(str(weights[0]), "6726825d")


def test_a_missing_file_and_a_damaged_one_are_reported(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        inception.InceptionFeatures(str(tmp_path / "none.pth"), "6726825d")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not weights")
    digest = hashlib.sha256(b"not weights").hexdigest()
    with pytest.raises(RequestError, match="does not hold"):
        inception.InceptionFeatures(str(broken), digest[:8])


def test_without_file_and_network_the_three_ways_out_are_reported(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(RequestError) as caught:
        inception.InceptionFeatures(None, "6726825d")
    message = str(caught.value)
    assert all(way in message for way in ("metric.fid.weights=", "go online", "metric/fid=classifier"))


def gaussian(seed: int, dimensions: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of features whose scales along axes of their own differ a hundredfold."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)).Q
    scale = torch.logspace(-1.5, 0, dimensions, dtype=torch.float64)
    x = torch.randn(samples, dimensions, generator=generator, dtype=torch.float64) * scale @ axes
    return x.mean(0), x.T.cov()


@pytest.mark.parametrize(
    ("dimensions", "samples", "tolerance"),
    [(2, 50, {"rel": 1e-9}), (64, 1000, {"rel": 1e-9}), (300, 5000, {"rel": 1e-9}), (64, 40, {"abs": 1e-4}),
     (300, 300, {"abs": 1e-4}), (300, 20, {"abs": 1e-4})],
)  # fmt: skip
def test_the_distance_is_torchmetrics_own_and_the_formulas(dimensions, samples, tolerance):
    one, other = gaussian(0, dimensions, samples), gaussian(1, dimensions, 2 * samples)
    found = frechet_distance(*one, *other).item()
    assert found == pytest.approx(_compute_fid(*one, *other).item(), **tolerance)
    assert frechet_distance(*other, *one).item() == pytest.approx(found, **tolerance)


def test_the_distance_of_commuting_covariances_has_a_closed_form():
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    a, b = (torch.arange(8, dtype=torch.float64) * k for k in (1.0, 3.0))  # the first eigenvalue is zero
    mu = torch.linspace(0, 1, 8, dtype=torch.float64)
    found = frechet_distance(mu, basis * a @ basis.T, 2 * mu, basis * b @ basis.T)
    assert found.item() == pytest.approx((mu.square().sum() + (a.sqrt() - b.sqrt()).square().sum()).item(), rel=1e-12)
    zero = torch.zeros(8, 8, dtype=torch.float64)
    assert frechet_distance(mu, zero, mu, basis * a @ basis.T).item() == pytest.approx(a.sum().item())
