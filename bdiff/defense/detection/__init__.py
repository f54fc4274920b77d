"""Detections: each inverts a trigger from a suspect model and returns a verdict. Removals are in removal/. Start at
elijah.py, the shortest; coefficients.py has the correction coefficients of the predicted noise.
"""
