"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), by torch-fidelity."""

from torch import Tensor
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from bdiff.metric.base import MetricResult

NEIGHBOURS = 3  # the paper's k
ROWS = 1000  # of the distance matrix that are in memory at once


def precision_recall(real: Tensor, fake: Tensor) -> MetricResult:
    """Return `precision` and `recall`, fractions in [0,1], of activations (N,D) of real and (M,D) of generated images.

    Precision is the fraction of generated images within the manifold of the real ones (the union of balls that reach
    each image's k-th neighbour), recall the fraction of real ones within that of the generated. Both depend on N and M.
    """
    fewest = min(len(real), len(fake))
    if fewest <= NEIGHBOURS:
        return MetricResult({}, {"absent": f"{fewest} images have no {NEIGHBOURS} neighbours each"})
    found = prc_features_to_metric(
        fake.double(),
        real.double(),
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=ROWS,
        save_cpu_ram=True,
        verbose=False,
    )
    values = {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}
    return MetricResult(values, {"neighbours": NEIGHBOURS})
