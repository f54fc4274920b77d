"""The metrics available in `metric.also`; torch-free, since requests are checked against it."""

#: computed from the activations of FID
OVER_FEATURES = ("inception_score", "kid", "precision_recall")
ALSO = (*OVER_FEATURES, "lpips", "sample_psnr", "secret")

#: px: AlexNet's pooling reduces smaller images to nothing
LPIPS_SIZE = 31
