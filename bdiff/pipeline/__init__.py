"""One experiment from config to numbers: its stages, each stored under a key that says what it depends on. Methods and
measures lie in their own folders, figures in report/. Start at main.py, which has the stages in order, and gives each
the few things that it needs; experiment.py makes these of a request.
"""
