"""Attacks: what a backdoor does to a model's training, and how it is called up afterwards."""
