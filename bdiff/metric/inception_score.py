"""The Inception score (Salimans et al. 2016, arXiv 1606.03498), by torch-fidelity."""

from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

from bdiff.metric.base import MetricResult

SPLITS = 10  # the paper's


def inception_score(logits: Tensor) -> MetricResult:
    """Return `inception_score`, 1 to the number of classes, of logits (N,classes): the mean over splits of N.

    The score of a single image is always 1, so the metric is absent if a split would have only one.
    """
    if len(logits) < 2 * SPLITS:
        return MetricResult({}, {"absent": f"{len(logits)} images do not fill {SPLITS} splits with 2 each"})
    found = isc_features_to_metric(logits, splits=SPLITS)
    return MetricResult(
        {"inception_score": found[KEY_METRIC_ISC_MEAN]}, {"std": found[KEY_METRIC_ISC_STD], "splits": SPLITS}
    )
