"""Triggers: one function a file, `name(size, ...) -> picture`, free of torch; `base.Trigger` is what runs use."""
