"""`bdiff doctor`: what this machine has, what is missing, and whether a run would work. It changes nothing; problems of
a request itself are found by config/. Start at command.py.
"""
