"""Classifiers: images to logits, with access to the features before the last layer; one file per architecture. They are
trained and stored by pipeline/. Start at base.py, then small_cnn.py.
"""
