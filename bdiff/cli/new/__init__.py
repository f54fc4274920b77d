"""`bdiff new`: creates a plugin package from the files in templates/; see `bdiff.config.plugins`."""
