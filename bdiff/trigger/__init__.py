"""Triggers: one function per file, `name(size, ...) -> picture`, torch-free. Their use is in attack/. Start at box.py;
base.Trigger is the class that runs use.
"""
