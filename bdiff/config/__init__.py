"""From the overrides of a request to a valid config, and from a config to the parts it names. Parts are named by their
dotted paths, and torch is not imported. Start at compose.py, then validate.py and instantiate.py.
"""
