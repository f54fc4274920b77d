"""The Kernel Inception Distance (Bińkowski et al. 2018, arXiv 1801.01401), by torch-fidelity."""

from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from bdiff.metric.base import MetricResult

SUBSETS, SUBSET = 100, 1000  # how many, and the images in each: the paper's


def kid(real: Tensor, fake: Tensor) -> MetricResult:
    """Return `kid` of activations (N,D) and (M,D) as a mean over random subsets; absent if N or M is 1.

    The subsets are the same each time. It is the unbiased squared MMD of the kernel (x.y / D + 1)^3, and may be
    slightly negative. If every subset contains all images, so that all are equal, there is no `std`.
    """
    size = min(SUBSET, len(real), len(fake))
    if size < 2:
        return MetricResult({}, {"absent": "an unbiased estimate takes 2 images of either side"})
    found = kid_features_to_metric(
        fake.double(), real.double(), kid_subsets=SUBSETS, kid_subset_size=size, verbose=False
    )
    marks = [] if size == SUBSET else [f"subsets of {size} images, of which there are no {SUBSET}"]
    spread = {} if size == len(real) == len(fake) else {"std": found[KEY_METRIC_KID_STD]}
    facts = {**spread, "subsets": SUBSETS, "subset_size": size, "marks": marks}
    return MetricResult({"kid": found[KEY_METRIC_KID_MEAN]}, facts)
