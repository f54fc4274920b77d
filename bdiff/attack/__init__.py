"""Attacks: how a backdoor is trained into a model, and how it is activated; one file per method. The pictures of their
triggers and targets are in trigger/ and target/. Start at base.py, then baddiffusion.py.
"""
