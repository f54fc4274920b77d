"""The measures that a request can ask for in `metric.also`; torch-free, since requests are checked against it."""

#: taken over the activations that FID is taken over
OVER_FEATURES = ("inception_score", "kid", "precision_recall")
ALSO = (*OVER_FEATURES, "lpips", "sample_psnr", "secret")

#: px: AlexNet's pooling leaves nothing of smaller images
LPIPS_SIZE = 31
