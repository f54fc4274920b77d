"""Defenses, a folder for each role: detection, removal, sampling, shields. None knows an attack, and none measures its
own success, which pipeline/ does. Start at base.py, which says what a defense sees of a model.
"""
