"""Removals: each takes a suspect model and clean images, and returns a model to be measured again. A trigger that it
needs was inverted by detection/. Start at finetune.py, the plainest.
"""
