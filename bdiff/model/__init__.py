"""Diffusion models: built from a config, or read from and written to stock diffusers folders. How they are trained and
sampled is in diffusion/. Start at checkpoint.py.
"""
