"""The commands of `bdiff`, one file each: they read words, call the layers below, print, and return an exit code.
Nothing is computed here, and no torch is imported before a request has been found sound. Start at main.py.
"""
