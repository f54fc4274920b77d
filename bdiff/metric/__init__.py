"""Metrics: how well a backdoor hits its target, and how much of the model's quality it preserves; one file per metric.
pipeline/ decides which are computed, and their names. Start at base.py, then target.py.
"""
