"""Amplification: what an attacker can do with a trigger after training; shown as a warning, since half-trained
backdoors work. Attacks that act during training are in attack/. Start at purediffusion.py.
"""
