"""Shields: a diffusion model that stands before a classifier and cleans its inputs, or certifies its labels. The
adversary that tests them is in adversary/. Start at purification.py; cohen.py holds the statistics of certification.
"""
