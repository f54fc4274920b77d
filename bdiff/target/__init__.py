"""Targets: one function per file, `name(size, trigger, ...) -> picture`, torch-free. The distance of samples to a
target is measured in metric/target.py. Start at corner.py; base.to_target makes the tensor.
"""
