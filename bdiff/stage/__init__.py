"""The stages of an experiment: each an artifact under a key of all that it depends on, made once."""
