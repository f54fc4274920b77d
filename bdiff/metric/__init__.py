"""Measures: how well a backdoor hits its target, and what is left of the model's ordinary use; one file a measure.
Which are taken, and under what names, is for pipeline/ to say. Start at base.py, then target.py.
"""
