"""The Kernel Inception Distance (Bińkowski et al. 2018, arXiv 1801.01401), by torch-fidelity."""

from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from bdiff.metric.base import Measured

SUBSETS, SUBSET = 100, 1000  # how many, and the images in each: the paper's


def kid(real: Tensor, fake: Tensor) -> Measured:
    """Return `kid` of activations (N,D) and (M,D), N and M at least 2, as a mean over random subsets.

    The subsets are the same each time. It is the unbiased squared MMD of the kernel (x.y / D + 1)^3, and may come out
    slightly negative.
    """
    size = min(SUBSET, len(real), len(fake))
    found = kid_features_to_metric(
        fake.double(), real.double(), kid_subsets=SUBSETS, kid_subset_size=size, verbose=False
    )
    marks = [] if size == SUBSET else [f"subsets of {size} images, of which there are no {SUBSET}"]
    facts = {"std": found[KEY_METRIC_KID_STD], "subsets": SUBSETS, "subset_size": size, "marks": marks}
    return Measured({"kid": found[KEY_METRIC_KID_MEAN]}, facts)
