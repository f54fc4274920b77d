"""`bdiff doctor`: what is on this machine, what is not, and whether a run would work. It looks and changes nothing;
what is wrong with a request itself is found by config/. Start at command.py.
"""
