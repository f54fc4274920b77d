"""Measures that can be asked for, by hand: KID, precision and recall, Inception score, LPIPS, secret, sample_psnr."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
import torchvision
from torchmetrics.functional.image import structural_similarity_index_measure

from bdiff.common.errors import RequestError
from bdiff.data.base import to_uint8
from bdiff.metric.base import first
from bdiff.metric.inception_score import inception_score
from bdiff.metric.kid import kid
from bdiff.metric.lpips import Lpips
from bdiff.metric.names import LPIPS_SIZE
from bdiff.metric.precision_recall import precision_recall
from bdiff.metric.sample_psnr import sample_psnr
from bdiff.metric.secret import secret


def activations(seed: int, count: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


def pictures(seed: int, count: int = 10, channels: int = 3, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, size, size), generator=generator).to(torch.uint8)


def test_kid_is_the_unbiased_mmd_of_a_cubic_kernel():
    """Fewer images than a subset has: every subset is then all of them, and the mean is one closed form."""
    real, fake = activations(0, 40), activations(1, 40, 0.5)
    x, y = real.double().numpy(), fake.double().numpy()

    def mean(a, b, diagonal):
        kernel = (a @ b.T / 6 + 1) ** 3
        return kernel.mean() if diagonal else (kernel.sum() - np.trace(kernel)) / (40 * 39)

    found = kid(real, fake)
    expected = mean(x, x, False) + mean(y, y, False) - 2 * mean(x, y, True)
    assert found.values == {"kid": pytest.approx(expected, rel=1e-9)}
    assert found.protocol["subset_size"] == 40
    assert found.protocol["marks"] == ["subsets of 40 images, of which there are no 1000"]


def test_precision_and_recall_by_hand():
    real, fake = activations(0, 30), activations(1, 25, 1.0)
    x, y = real.numpy(), fake.numpy()

    def share(points, centres):
        """The share of points within a ball around any centre that reaches its third neighbour."""
        reach = np.sort(np.linalg.norm(centres[:, None] - centres, axis=-1), axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - centres, axis=-1) <= reach).any(1).mean()

    found = precision_recall(real, fake)
    assert found.values == {"precision": pytest.approx(share(y, x)), "recall": pytest.approx(share(x, y))}
    assert 0 < found.values["recall"] < 1 and found.values["precision"] != found.values["recall"]


def test_too_few_images_have_no_manifold_and_no_splits():
    assert precision_recall(activations(0, 30), activations(1, 3)) == (
        {},
        {"absent": "3 images have no 3 neighbours each"},
    )
    assert inception_score(activations(0, 19)) == ({}, {"absent": "19 images do not fill 10 splits with 2 each"})
    assert inception_score(activations(0, 20)).values["inception_score"] > 1
    for few in (kid(activations(0, 1), activations(1, 30)), kid(activations(0, 30), activations(1, 1))):
        assert few == ({}, {"absent": "an unbiased estimate takes 2 images of either side"})


def test_a_spread_over_subsets_is_reported_only_where_they_differ():
    assert "std" not in kid(activations(0, 40), activations(1, 40)).protocol
    assert kid(activations(0, 40), activations(1, 41)).protocol["std"] > 0


def test_the_inception_score_of_sure_and_unsure_logits():
    """One class throughout tells nothing, as many sure classes as there are tell all."""
    sure = 100 * torch.eye(6).repeat(100, 1)
    assert inception_score(sure).values["inception_score"] == pytest.approx(6, rel=0.05)
    assert inception_score(100 * torch.eye(6)[:1].repeat(60, 1)).values["inception_score"] == pytest.approx(1)
    assert inception_score(torch.zeros(60, 6)).values["inception_score"] == pytest.approx(1)


def test_sample_psnr_is_a_mean_over_images():
    one, other = pictures(0), pictures(1)
    a, b = one.double().numpy() / 255, other.double().numpy() / 255
    each = [10 * math.log10(1 / ((x - y) ** 2).mean()) for x, y in zip(a, b, strict=True)]
    found = sample_psnr(one.split(4), other.split(4))
    assert found.values == {"sample_psnr": pytest.approx(np.mean(each), rel=1e-9)}


def test_an_exact_match_has_the_psnr_of_rounding():
    """Not an infinite one, which would make every mean infinite."""
    limit = 10 * math.log10(12 * 255**2)
    assert sample_psnr([pictures(0)], [pictures(0)]).values["sample_psnr"] == pytest.approx(limit)
    target = torch.rand(3, 16, 16) * 2 - 1  # on no 8-bit step
    found = secret([to_uint8(target).expand(4, -1, -1, -1)], target).values
    assert found == {"secret_psnr": pytest.approx(limit), "secret_ssim": pytest.approx(1)}
    assert limit == pytest.approx(58.92, abs=0.01)


def test_the_secret_is_compared_image_by_image():
    pixels, target = pictures(0), torch.linspace(-1, 1, 16 * 16).reshape(1, 16, 16).expand(3, -1, -1)
    hidden = np.rint((target.double().numpy() + 1) * 127.5) / 255
    each = [-10 * math.log10(((x - hidden) ** 2).mean()) for x in pixels.double().numpy() / 255]
    likeness = structural_similarity_index_measure(
        pixels / 255, torch.tensor(hidden).float().expand(10, -1, -1, -1), data_range=1.0
    )
    found = secret(pixels.split(3), target).values
    assert found["secret_psnr"] == pytest.approx(np.mean(each), rel=1e-6)
    assert found["secret_ssim"] == pytest.approx(likeness.item(), rel=1e-4)


def test_batches_are_cut_to_the_first_images():
    whole = pictures(0)
    for count in (0, 3, 4, 7, 10, 99):
        assert torch.equal(torch.cat([whole[:0], *first(whole.split(4), count)]), whole[:count])


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    """A file of random weights in the shapes of torchvision's AlexNet."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("alexnet") / "random.pth"
    torch.save(torchvision.models.alexnet().state_dict(), path)
    return path


@torch.no_grad()
def test_lpips_agrees_with_its_formula(alexnet):
    """Zhang et al. 2018, eq. 1: unit-length channels, squared differences, weighted and averaged, layer by layer."""
    pixels, target = pictures(0, 5, channels=1, size=32), torch.rand(1, 32, 32) * 2 - 1
    found = Lpips(str(alexnet))(pixels.split(2), target)
    network = torchvision.models.alexnet()
    network.load_state_dict(torch.load(alexnet))
    models = Path(torchmetrics.__file__).parent / "functional/image/lpips_models"
    linear = torch.load(models / "alex.pth", map_location="cpu")
    shift, scale = (torch.tensor(v).view(3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    x, y = (((z.expand(-1, 3, -1, -1)) - shift) / scale for z in (pixels / 127.5 - 1, target[None]))
    total = torch.zeros(5)
    for number, layer in enumerate(network.features[:12]):
        x, y = layer(x), layer(y)
        if number in (1, 4, 7, 9, 11):
            u, v = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
            weight = linear[f"lin{(1, 4, 7, 9, 11).index(number)}.model.1.weight"]
            total += ((u - v) ** 2 * weight).sum(1).mean((1, 2))
    assert found.values == {"lpips": pytest.approx(total.mean().item(), rel=1e-4)}
    assert found.protocol["sha256"] == hashlib.sha256(alexnet.read_bytes()).hexdigest()
    assert found.protocol["marks"] == ["not torchvision's weights: compares with nothing else"]


@torch.no_grad()
def test_lpips_takes_no_smaller_images_than_is_said(alexnet):
    network = Lpips(str(alexnet))
    assert network([pictures(0, 2, size=LPIPS_SIZE)], torch.zeros(3, LPIPS_SIZE, LPIPS_SIZE)).values["lpips"] > 0
    with pytest.raises(RuntimeError, match="Output size is too small"):
        network([pictures(0, 2, size=LPIPS_SIZE - 1)], torch.zeros(3, LPIPS_SIZE - 1, LPIPS_SIZE - 1))


def test_lpips_can_be_taken_again(alexnet):
    lpips, target = Lpips(str(alexnet)), torch.zeros(3, 32, 32)
    once = lpips([pictures(0, 3, size=32)], target)
    lpips([pictures(1, 3, size=32)], target)
    assert lpips([pictures(0, 3, size=32)], target).values == once.values


def test_without_weights_the_ways_out_are_reported(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(RequestError, match=r"no network") as caught:
        Lpips(None)
    assert "metric.lpips_weights=<file>" in str(caught.value)
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name, problem in (("text.pth", "is not unpickled"), ("other.pth", "does not hold")):
        with pytest.raises(RequestError, match=f"{name} {problem}") as caught:
            Lpips(str(tmp_path / name))
        assert len(str(caught.value).splitlines()) == 1
