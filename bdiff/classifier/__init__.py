"""Classifiers: an image in, logits out, with the features before the last layer at hand."""
