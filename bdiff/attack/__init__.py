"""Attacks: what a backdoor does to a model's training, and how it is called up afterwards; one file a method. How
their triggers and targets look is in trigger/ and target/. Start at base.py, then baddiffusion.py.
"""
