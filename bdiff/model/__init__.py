"""Diffusion models: built from a config, or read from and written to stock diffusers folders."""
