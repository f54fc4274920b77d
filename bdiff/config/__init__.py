"""From the words of a request to a sound config, and from a config to the parts it names. Parts are known by their
dotted paths alone, and no torch is imported. Start at compose.py, then validate.py and instantiate.py.
"""
