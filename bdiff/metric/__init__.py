"""Measures: how well a backdoor hits its target, and what is left of the model's ordinary use."""
