"""Adversaries: attacks that perturb a classifier's inputs to evaluate a shield. Backdoors of diffusion models are in
attack/. Start at pgd.py, which has PGD and calls AutoAttack's APGD if it is installed.
"""
