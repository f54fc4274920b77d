"""Removals: each takes a suspect model and clean images, and returns a model to be measured again. A trigger that it
needs is inverted by detection/. Start at finetune.py, the simplest.
"""
