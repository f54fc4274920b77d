"""Adversaries: what perturbs a classifier's inputs to evaluate a shield. Backdoors of diffusion models are in attack/.
Start at pgd.py, which holds PGD and calls AutoAttack's APGD where that is installed.
"""
