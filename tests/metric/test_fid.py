"""The Fréchet distance against its formula, streaming, reference sums, and where Inception weights come from."""

import hashlib

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

import bdiff.metric.fid.inception as inception
from bdiff.classifier.small_cnn import SmallCNN
from bdiff.errors import RequestError
from bdiff.metric.fid.base import Features, Frechet
from bdiff.metric.fid.classifier import ClassifierFeatures


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


@torch.no_grad()
def test_it_agrees_with_the_formula_in_float64(features):
    real, fake = pictures(0), pictures(2)
    a, b = (features(x).double().numpy() for x in (real, fake))
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root.real)
    assert distance(features, [real], [fake]) == pytest.approx(wanted, rel=1e-6)


def test_batches_do_not_matter(features):
    whole = distance(features, [pictures(0)], [pictures(2)])
    assert distance(features, list(pictures(0).split(7)), list(pictures(2).split(13))) == pytest.approx(whole, rel=1e-5)


def test_an_image_set_is_at_no_distance_from_itself(features):
    assert distance(features, [pictures(0)], [pictures(0)]) == pytest.approx(0, abs=1e-5)


def test_kept_reference_sums_stand_for_the_images(features):
    first = Frechet(features, torch.device("cpu"))
    first.feed([pictures(0)], real=True)
    second = Frechet(features, torch.device("cpu"))
    second.reference = first.reference
    second.feed([pictures(2)], real=False)
    assert second.value() == distance(features, [pictures(0)], [pictures(2)])


def test_the_classifier_s_distance_has_its_own_name_and_says_where_it_is_from(features):
    assert features.metric == "fid_classifier"
    assert features.protocol() == {"extractor": "SmallCNN", "resize": "none", "key": "k", "accuracy": 0.9}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights in the shapes of pytorch-fid's, and its hash."""
    from pytorch_fid import inception as theirs

    torch.manual_seed(0)
    made = {}
    keep, theirs.load_state_dict_from_url = theirs.load_state_dict_from_url, None
    try:

        class Stop(Exception):
            pass

        def stop(*args, **options):
            raise Stop

        theirs.load_state_dict_from_url = stop
        original = theirs._inception_v3

        def capture(*args, **options):
            made["network"] = original(*args, **options)
            return made["network"]

        theirs._inception_v3 = capture
        with pytest.raises(Stop):
            theirs.fid_inception_v3()
    finally:
        theirs.load_state_dict_from_url, theirs._inception_v3 = keep, original
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(made["network"].state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_inception_reads_the_file_it_is_given(weights):
    path, digest = weights
    before = torch.hub.get_dir()
    features = inception.InceptionFeatures(str(path), digest[:8]).eval()
    assert torch.hub.get_dir() == before
    with torch.no_grad():
        grey = features(pictures(0, 2))
        colour = features(pictures(0, 2).expand(-1, 3, -1, -1))
    assert grey.shape == (2, 2048)
    torch.testing.assert_close(grey, colour)
    assert features.protocol()["sha256"] == digest
    saved = torch.load(path, weights_only=True)
    kept = features.network.state_dict()
    assert torch.equal(kept["blocks.0.0.conv.weight"], saved["Conv2d_1a_3x3.conv.weight"])


def test_other_weights_than_asked_for_are_refused(weights):
    with pytest.raises(RequestError, match="sha256"):
        inception.InceptionFeatures(str(weights[0]), "6726825d")


def test_a_missing_file_and_a_damaged_one_are_told(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        inception.InceptionFeatures(str(tmp_path / "none.pth"), "6726825d")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not weights")
    digest = hashlib.sha256(b"not weights").hexdigest()
    with pytest.raises(RequestError, match="does not hold"):
        inception.InceptionFeatures(str(broken), digest[:8])


def test_without_file_and_network_the_three_ways_out_are_told(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(RequestError) as caught:
        inception.InceptionFeatures(None, "6726825d")
    told = str(caught.value)
    assert all(way in told for way in ("metric.fid.weights=", "go online", "metric/fid=classifier"))


def test_features_take_any_number_of_images_in_the_same_space(features):
    frechet = Frechet(features, torch.device("cpu"))
    sizes = []
    for _ in range(3):
        frechet.feed([pictures(0)], real=True)
        sizes.append(sum(value.numel() for value in frechet.reference.values()))
    assert sizes[0] == sizes[2]
    assert isinstance(frechet.statistic, nn.Module)
