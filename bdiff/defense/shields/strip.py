"""An input check based on STRIP (Gao et al. 2019, arXiv 1902.06531): a trigger's label survives blending with images.

STRIP averages the entropies of the predictions for the blended copies. We take the entropy of the mean prediction: an
overconfident classifier has entropies near zero throughout, while its labels still change with the blend.
"""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor


@torch.no_grad()
def entropies(logits: Callable[[Tensor], Tensor], x: Tensor, clean: Tensor, weight: float) -> Tensor:
    """Return each input's entropy (B,) in nats, from 0 to log(classes); a low one is suspicious.

    Args:
        logits: the classifier, of images in [-1,1].
        x: the inputs (B,C,H,W) in [-1,1].
        clean: the images (N,C,H,W) in [-1,1] that every input is blended with.
        weight: weight of the clean image in a blend, 0 to 1.
    """
    blends = ((1 - weight) * x + weight * other for other in clean)
    mean = torch.stack([logits(blend).softmax(1) for blend in blends]).mean(0)
    return torch.special.entr(mean).sum(1)


def threshold(clean: Tensor, false_positive_rate: float) -> float:
    """Return the entropy below which an input is flagged, from the entropies of clean inputs (n,).

    A clean input from the same distribution is flagged with a probability of at most `false_positive_rate`: of n + 1
    exchangeable numbers, the last is below the k-th smallest of the others with probability at most k / (n + 1).
    Raises ValueError if the rate, between 0 and 1, is too small for this number of inputs.
    """
    k = int(false_positive_rate * (len(clean) + 1))
    if k == 0:
        need = ceil(1 / false_positive_rate) - 1
        raise ValueError(
            f"false_positive_rate={false_positive_rate} is too small for {len(clean)} clean inputs: use {need} or more"
        )
    return float(clean.kthvalue(k).values)
