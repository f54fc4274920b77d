"""Amplification: what an attacker can do with a trigger after training; shown as a warning, since half-trained
backdoors are usable. Attacks during training are in attack/. Start at purediffusion.py.
"""
