"""Diffusion models: built from a config, or read from and written to stock diffusers folders. Training and sampling are
in diffusion/. Start at checkpoint.py.
"""
