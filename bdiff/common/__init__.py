"""Utilities for every layer: errors, seeds, devices, progress bars, paths. Code that depends on a stage, a config key
or a file format of bdiff belongs in a higher layer. Start at errors.py.
"""
