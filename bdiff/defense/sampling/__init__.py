"""Sampling-time defenses: each changes the sampler and leaves the model unchanged. Defenses that change its weights are
in removal/. Start at clipping.py.
"""
