"""What every layer may use and nothing else explains: errors, seeds, devices, progress bars, paths. What knows of a
stage, a config key or a file format of bdiff's lies higher up. Start at errors.py.
"""
