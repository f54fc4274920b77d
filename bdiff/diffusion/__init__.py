"""The mathematics that all methods share: the schedule, the one training loop, the one sampling loop and their noise.
Nothing here knows of triggers or backdoors; networks are in model/. Start at schedule.py.
"""
