"""Triggers: one function a file, `name(size, ...) -> picture`, free of torch. What an attack does with one is in
attack/. Start at box.py; base.Trigger is what runs use.
"""
