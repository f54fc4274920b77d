"""Detections: each inverts a trigger from a suspect model and answers with a verdict. What removes a backdoor is in
removal/. Start at elijah.py, the shortest; laws.py says how triggers shift the noise.
"""
