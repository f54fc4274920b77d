"""What a training starts from."""

from typing import NamedTuple


class InitialWeights(NamedTuple):
    """What a training starts from."""

    folder: str | None  # a diffusers folder or hub id; None for fresh weights
    identity: str | None  # what keys say of it
    prediction: str  # what the network predicts, see `Denoiser`
