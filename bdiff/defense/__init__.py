"""Defenses, a folder for each role: detection, removal, sampling, shields. No defense depends on an attack or measures
its own success, which pipeline/ does. Start at base.py, which defines what a defense sees of a model.
"""
