"""Shields: a diffusion model in front of a classifier that purifies its inputs, or certifies its labels. The adversary
that evaluates them is in adversary/. Start at purification.py; cohen.py has the statistics of certification.
"""
