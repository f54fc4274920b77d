"""`bdiff new`: a plugin package, written from the files in templates/; `bdiff.config.plugins` says what plugins are."""
