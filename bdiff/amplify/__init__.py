"""Amplification: what an attacker can do with a trigger after training. Shown to warn: half-trained backdoors work."""
