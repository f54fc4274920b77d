"""The commands of `bdiff`, one file each: they parse arguments, call the layers below, print, and return an exit code.
Nothing is computed here, and torch is not imported before a request has been validated. Start at main.py.
"""
