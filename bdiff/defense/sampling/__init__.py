"""Sampling-time defenses: each changes the sampler and leaves the model as it is. What changes its weights is in
removal/. Start at clipping.py.
"""
