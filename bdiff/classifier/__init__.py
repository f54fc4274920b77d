"""Classifiers: an image in, logits out, with the features before the last layer at hand; one file an architecture.
They are trained and stored by pipeline/. Start at base.py, then small_cnn.py.
"""
