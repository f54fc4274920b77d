"""How well scores tell two kinds apart: AUROC, and rates above a threshold."""

import torch
from torch import Tensor


def auroc(clean: Tensor, attacked: Tensor) -> float:
    """Return the probability that an attacked input's score (m,) is above a clean one's (n,), ties counting half."""
    order = torch.cat([clean, attacked]).unique(sorted=True, return_inverse=True)[1].double()
    below = torch.searchsorted(order[: len(clean)].sort().values, order[len(clean) :])
    upto = torch.searchsorted(order[: len(clean)].sort().values, order[len(clean) :], right=True)
    return ((below + upto).double() / 2).mean().item() / len(clean)


def threshold_at(clean: Tensor, rate: float) -> float:
    """Return the smallest of the clean scores (n,) that at most a fraction `rate` of them is above."""
    kept = clean.sort().values
    return kept[len(kept) - 1 - int(rate * len(kept))].item()


def rate_above(scores: Tensor, threshold: float) -> float:
    """Return the fraction of scores (n,) above the threshold."""
    return (scores > threshold).double().mean().item()
