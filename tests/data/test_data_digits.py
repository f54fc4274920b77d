"""The embedded digits: their sizes, splits and classes."""

import torch


def test_digits(get):
    train, test, both = (get("digits", split=split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (1438, 359, 1797)
    assert train.shape == (1, 16, 16) and train.flip is False and train.classes == tuple("0123456789")
    assert len({train.fingerprint, test.fingerprint, both.fingerprint}) == 3
    pixels = both.take(torch.arange(1797))
    assert pixels.dtype == torch.uint8 and pixels.max() == 255 and pixels.min() == 0
    # Splits share no digit and leave none out.
    parts = torch.cat([train.take(torch.arange(1438)), test.take(torch.arange(359))])
    assert torch.equal(parts.unique(dim=0), pixels.unique(dim=0))
    assert torch.equal(torch.cat([train.labels, test.labels]).bincount(), both.labels.bincount())


def test_the_split_is_the_same_for_every_seed(get):
    assert get("digits", seed=1).fingerprint == get("digits").fingerprint


def test_digits_from_scikit_learn_are_upsampled_in_place(get):
    from sklearn.datasets import load_digits

    pixels = get("digits", split="all", size=8).take(torch.arange(1797))
    assert torch.equal(pixels[:, 0], torch.tensor(load_digits().images * 255 / 16).round().to(torch.uint8))


def test_digits_in_colour_and_from_a_folder(get, animals):
    assert get("digits", channels=3, limit=3).take(torch.arange(3)).shape == (3, 3, 16, 16)
    assert get("digits", path=animals).shape == (1, 16, 16)
