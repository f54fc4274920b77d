"""Targets: one function a file, `name(size, trigger, ...) -> picture`, free of torch; `base.to_target` ends it."""
