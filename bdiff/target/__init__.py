"""Targets: one function a file, `name(size, trigger, ...) -> picture`, free of torch. How near samples come to one is
measured in metric/target.py. Start at corner.py; base.to_target makes the tensor.
"""
