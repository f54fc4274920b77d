"""Random weights in the shapes of pytorch-fid's network, which the tests of FID share."""

import hashlib
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn


def random_inception() -> dict[str, torch.Tensor]:
    """Weights of pytorch-fid's InceptionV3 whose activations have the usual size, the same every time."""
    from pytorch_fid import inception

    torch.manual_seed(0)
    with mock.patch.object(inception, "load_state_dict_from_url"), mock.patch.object(nn.Module, "load_state_dict"):
        network = inception.fid_inception_v3()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the statistics of one batch: with the initial ones nothing reaches the last layer
    with torch.no_grad():
        network.train()(torch.nn.functional.interpolate(torch.rand(6, 3, 4, 4) * 2 - 1, 299, mode="bilinear"))
    return network.state_dict()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> tuple[Path, str]:
    """The file of `random_inception` where torch's hub would have it, below TORCH_HOME, and its hash."""
    from pytorch_fid.inception import FID_WEIGHTS_URL

    path = tmp_path_factory.mktemp("torch_home") / "hub" / "checkpoints" / Path(FID_WEIGHTS_URL).name
    path.parent.mkdir(parents=True)
    torch.save(random_inception(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()
