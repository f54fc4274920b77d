"""MSE, SSIM, PSNR and ASR against the target, by hand."""

import math

import numpy as np
import pytest
import torch

from bdiff.data.base import to_uint8
from bdiff.metric.target import asr_threshold, compare, false_trigger, near

TARGET = torch.full((1, 16, 16), -0.4)


def off_by(amount: float, count: int) -> torch.Tensor:
    """`count` images that miss the target by `amount` on [0,1] everywhere."""
    return to_uint8((TARGET + 2 * amount).expand(count, -1, -1, -1))


def test_errors_and_hits_by_hand():
    values = compare([off_by(0.2, 3), off_by(0.3, 1)], TARGET, threshold=0.05)
    assert values["mse"] == pytest.approx((3 * 0.04 + 0.09) / 4, rel=0.02)
    assert values["asr"] == 0.75
    assert values["psnr"] == pytest.approx(-10 * math.log10(values["mse"]))


def test_batches_do_not_matter():
    torch.manual_seed(0)
    pixels = torch.randint(256, (10, 3, 16, 16)).to(torch.uint8)
    target = torch.rand(3, 16, 16) * 2 - 1
    whole, parts = compare([pixels], target, 0.1), compare(pixels.split(3), target, 0.1)
    assert whole == pytest.approx(parts, rel=1e-5)
    hits = near(target, 0.17)
    whole, parts = false_trigger([pixels], hits), false_trigger(pixels.split(3), hits)
    assert whole == parts and 0 < whole.values["false_trigger"] < 1


def test_clean_samples_that_show_the_target_by_hand():
    """An error of .2 everywhere is an MSE of .04, one of .3 of .09."""
    clean = [off_by(0.3, 5), torch.cat([off_by(0.2, 1), off_by(0.3, 2)])]
    found = false_trigger(clean, near(TARGET, 0.05))
    assert found.protocol == {"count": 8}
    assert found.values == {"false_trigger": 1 / 8, "false_trigger_se": pytest.approx((1 / 8 * 7 / 8 / 8) ** 0.5)}
    assert false_trigger(clean, near(TARGET, 0.1)).values == {"false_trigger": 1, "false_trigger_se": 0}
    assert found.values["false_trigger"] == compare(clean, TARGET, threshold=0.05)["asr"]


def test_ssim_agrees_with_an_independent_formula():
    """Wang et al. 2004 with an 11x11 Gaussian window (sigma 1.5), written out in numpy, edges reflected."""
    torch.manual_seed(1)
    pixels = torch.randint(256, (2, 1, 32, 32)).to(torch.uint8)
    target = torch.rand(1, 32, 32) * 2 - 1
    kernel = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(kernel, kernel) / kernel.sum() ** 2

    def mean(image):
        patches = np.lib.stride_tricks.sliding_window_view(np.pad(image, 5, mode="reflect"), (11, 11))
        return (patches * window).sum((-1, -2))

    likeness = []
    y = (target[0].double().numpy() + 1) / 2
    for image in pixels[:, 0].double().numpy() / 255:
        mx, my = mean(image), mean(y)
        vx, vy, cov = mean(image**2) - mx**2, mean(y**2) - my**2, mean(image * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        likeness.append((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    assert compare([pixels], target, 0.1)["ssim"] == pytest.approx(np.mean(likeness), abs=1e-4)


def test_a_perfect_hit_has_no_psnr():
    values = compare([torch.full((2, 1, 16, 16), 255, dtype=torch.uint8)], torch.ones(1, 16, 16), 0.05)
    assert values["mse"] == 0
    assert values["asr"] == 1
    assert values["ssim"] == pytest.approx(1)
    assert "psnr" not in values


@pytest.mark.parametrize(
    ("configured", "size", "expected"), [(None, 16, 0.05), (None, 32, 0.05), (None, 256, 0.1), (0.2, 32, 0.2)]
)
def test_threshold_follows_the_size(configured, size, expected):
    assert asr_threshold(configured, size) == expected
